//! The protocol without the socket: bytes in, events out; calls in, bytes out.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use amq_protocol::{
    auth::{Credentials, SASLMechanism},
    frame::{AMQPFrame, ProtocolVersion},
    protocol::{AMQPClass, BasicProperties, basic, channel, connection},
    types::{AMQPValue, FieldTable},
};

use super::{
    Error, Url,
    assemble::{Announcement, Content, Delivery, Partial, Returned},
    codec::{Decoder, Route, append_frame, append_method, append_publish},
};

/// Largest frame that this side accepts and sends, in bytes.
const FRAME_MAX: u32 = 131_072;
/// Heartbeat interval that this side asks for, in seconds.
const HEARTBEAT_S: u16 = 10;

/// Who answered, and what was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Product, such as `RabbitMQ`.
    pub product: String,
    /// Version of the product.
    pub version: String,
    /// Agreed largest frame in bytes.
    pub frame_max: u32,
    /// Agreed interval between heartbeats; zero switches them off.
    pub heartbeat: Duration,
}

/// Something that the broker said.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The connection is open; channels may be opened now.
    Opened(Server),
    /// A message for a consumer, or the answer to `basic.get`.
    Delivery(u16, Delivery),
    /// A mandatory message came back; its confirm follows.
    Returned(u16, Returned),
    /// The broker took (`ack`) or refused messages on a channel in confirm mode.
    Confirmed {
        /// Channel.
        channel: u16,
        /// Number of the publish on this channel, from 1.
        delivery_tag: u64,
        /// Whether every unconfirmed publish up to the tag is meant.
        multiple: bool,
        /// Taken (`true`) or refused.
        ack: bool,
    },
    /// The broker asks publishers to stop, with its reason.
    Blocked(String),
    /// Publishers may go on.
    Unblocked,
    /// The broker cancelled a consumer, for instance because its queue was deleted.
    ConsumerCancelled(u16),
    /// The broker closed a channel; the close was answered.
    ChannelClosed {
        /// Channel.
        channel: u16,
        /// Reply code.
        code: u16,
        /// Reply text.
        text: String,
    },
    /// The broker closed the connection (the close was answered), or answered our own close with
    /// code 200.
    Closed {
        /// Reply code.
        code: u16,
        /// Reply text.
        text: String,
    },
    /// The answer to a call, such as `queue.declare-ok`.
    Reply(u16, AMQPClass),
}

/// State of one AMQP connection.
///
/// After [`Connection::new`] the protocol header lies in [`Connection::outbound`]; the handshake
/// then answers itself, and [`Event::Opened`] ends it.
#[derive(Debug)]
pub struct Connection {
    url: Url,
    name: String,
    decoder: Decoder,
    outbound: Vec<u8>,
    sent: usize,
    events: VecDeque<Event>,
    partial: BTreeMap<u16, Partial>,
    server: Server,
}

impl Connection {
    /// A connection to `url` that shows itself to the broker as `name`.
    #[must_use]
    pub fn new(url: Url, name: &str) -> Self {
        let mut outbound = Vec::new();
        let header = AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1());
        append_frame(&mut outbound, &header);
        Self {
            url,
            name: name.to_owned(),
            decoder: Decoder::default(),
            outbound,
            sent: 0,
            events: VecDeque::new(),
            partial: BTreeMap::new(),
            server: Server {
                product: String::new(),
                version: String::new(),
                frame_max: FRAME_MAX,
                heartbeat: Duration::ZERO,
            },
        }
    }

    /// Takes bytes that came from the socket.
    ///
    /// # Errors
    /// [`Error::Protocol`] if they are not AMQP 0-9-1; the connection is of no use then.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.decoder.feed(bytes);
        while let Some(frame) = self.decoder.next_frame()? {
            self.take(frame)?;
        }
        Ok(())
    }

    /// The oldest event that was not taken yet.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Bytes that wait for the socket.
    #[must_use]
    pub fn outbound(&self) -> &[u8] {
        &self.outbound[self.sent..]
    }

    /// Tells that the socket took the first `bytes` of [`Connection::outbound`].
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.outbound.len() {
            self.outbound.clear();
            self.sent = 0;
        }
    }

    /// Calls a method on a channel.
    pub fn call(&mut self, channel: u16, method: AMQPClass) {
        append_method(&mut self.outbound, channel, method);
    }

    /// Opens a channel; [`Event::Reply`] with `channel.open-ok` answers.
    pub fn open_channel(&mut self, channel: u16) {
        let open = channel::AMQPMethod::Open(channel::Open {});
        self.call(channel, AMQPClass::Channel(open));
    }

    /// Publishes one message.
    pub fn publish(
        &mut self,
        channel: u16,
        route: Route<'_>,
        properties: &BasicProperties,
        body: &[u8],
    ) {
        let frame_max = self.server.frame_max;
        append_publish(
            &mut self.outbound,
            channel,
            frame_max,
            route,
            properties,
            body,
        );
    }

    /// Acknowledges a delivery, or every one up to it.
    pub fn ack(&mut self, channel: u16, delivery_tag: u64, multiple: bool) {
        let ack = basic::Ack {
            delivery_tag,
            multiple,
        };
        self.call(channel, AMQPClass::Basic(basic::AMQPMethod::Ack(ack)));
    }

    /// Sends a heartbeat; due at least every [`Server::heartbeat`] if nothing else is sent.
    pub fn heartbeat(&mut self) {
        append_frame(&mut self.outbound, &AMQPFrame::Heartbeat);
    }

    /// Asks the broker to close; [`Event::Closed`] answers.
    pub fn close(&mut self) {
        let close = connection::Close {
            reply_code: 200,
            reply_text: "done".into(),
            class_id: 0,
            method_id: 0,
        };
        self.call(
            0,
            AMQPClass::Connection(connection::AMQPMethod::Close(close)),
        );
    }

    fn take(&mut self, frame: AMQPFrame) -> Result<(), Error> {
        match frame {
            AMQPFrame::Method(0, AMQPClass::Connection(method)) => self.take_connection(method),
            AMQPFrame::Method(channel, AMQPClass::Channel(method)) => {
                self.take_channel(channel, method);
            }
            AMQPFrame::Method(channel, AMQPClass::Basic(method)) => {
                self.take_basic(channel, method);
            }
            AMQPFrame::Method(channel, method) => self.emit(Event::Reply(channel, method)),
            AMQPFrame::Header(channel, header) => {
                let partial = self.partial.get_mut(&channel).ok_or_else(unannounced)?;
                partial.header(header.properties, header.body_size);
                self.finish_if_complete(channel);
            }
            AMQPFrame::Body(channel, part) => {
                let partial = self.partial.get_mut(&channel).ok_or_else(unannounced)?;
                partial.body(&part);
                self.finish_if_complete(channel);
            }
            AMQPFrame::Heartbeat | AMQPFrame::InvalidHeartbeat(_) => {}
            AMQPFrame::ProtocolHeader(version) => {
                return Err(Error::Protocol(format!("the broker speaks {version} only")));
            }
        }
        Ok(())
    }

    fn take_connection(&mut self, method: connection::AMQPMethod) {
        use connection::AMQPMethod as M;
        match method {
            M::Start(start) => self.start(&start),
            M::Tune(tune) => self.tune(&tune),
            M::OpenOk(_) => self.emit(Event::Opened(self.server.clone())),
            M::Blocked(blocked) => self.emit(Event::Blocked(blocked.reason.into())),
            M::Unblocked(_) => self.emit(Event::Unblocked),
            M::Close(close) => {
                self.call(0, AMQPClass::Connection(M::CloseOk(connection::CloseOk {})));
                self.emit(Event::Closed {
                    code: close.reply_code,
                    text: close.reply_text.into(),
                });
            }
            M::CloseOk(_) => self.emit(Event::Closed {
                code: 200,
                text: "closed by us".to_owned(),
            }),
            other => self.emit(Event::Reply(0, AMQPClass::Connection(other))),
        }
    }

    fn start(&mut self, start: &connection::Start) {
        let property = |name: &str| match start.server_properties.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => "unknown".to_owned(),
        };
        self.server.product = property("product");
        self.server.version = property("version");
        let credentials = Credentials::new(
            self.url.user.clone().into(),
            self.url.password.clone().into(),
        );
        let answer = connection::StartOk {
            client_properties: client_properties(&self.name),
            mechanism: SASLMechanism::Plain.name().into(),
            response: credentials.sasl_auth_string(SASLMechanism::Plain),
            locale: "en_US".into(),
        };
        self.call(
            0,
            AMQPClass::Connection(connection::AMQPMethod::StartOk(answer)),
        );
    }

    fn tune(&mut self, tune: &connection::Tune) {
        // Zero means *no limit* on the broker's side.
        let frame_max = match tune.frame_max {
            0 => FRAME_MAX,
            theirs => theirs.min(FRAME_MAX),
        };
        let heartbeat = tune.heartbeat.min(HEARTBEAT_S);
        self.server.frame_max = frame_max;
        self.server.heartbeat = Duration::from_secs(heartbeat.into());
        let answer = connection::TuneOk {
            channel_max: tune.channel_max,
            frame_max,
            heartbeat,
        };
        self.call(
            0,
            AMQPClass::Connection(connection::AMQPMethod::TuneOk(answer)),
        );
        let open = connection::Open {
            virtual_host: self.url.vhost.as_str().into(),
        };
        self.call(0, AMQPClass::Connection(connection::AMQPMethod::Open(open)));
    }

    fn take_channel(&mut self, channel: u16, method: channel::AMQPMethod) {
        use channel::AMQPMethod as M;
        match method {
            M::Close(close) => {
                self.partial.remove(&channel);
                self.call(channel, AMQPClass::Channel(M::CloseOk(channel::CloseOk {})));
                self.emit(Event::ChannelClosed {
                    channel,
                    code: close.reply_code,
                    text: close.reply_text.into(),
                });
            }
            M::Flow(flow) => {
                let ok = channel::FlowOk {
                    active: flow.active,
                };
                self.call(channel, AMQPClass::Channel(M::FlowOk(ok)));
            }
            other => self.emit(Event::Reply(channel, AMQPClass::Channel(other))),
        }
    }

    fn take_basic(&mut self, channel: u16, method: basic::AMQPMethod) {
        use basic::AMQPMethod as M;
        match method {
            M::Deliver(deliver) => self.announce(channel, Announcement::Deliver(deliver)),
            M::GetOk(got) => self.announce(channel, Announcement::GetOk(got)),
            M::Return(returned) => self.announce(channel, Announcement::Return(returned)),
            M::Ack(ack) => self.confirmed(channel, ack.delivery_tag, ack.multiple, true),
            M::Nack(nack) => self.confirmed(channel, nack.delivery_tag, nack.multiple, false),
            M::Cancel(_) => self.emit(Event::ConsumerCancelled(channel)),
            other => self.emit(Event::Reply(channel, AMQPClass::Basic(other))),
        }
    }

    fn announce(&mut self, channel: u16, announcement: Announcement) {
        self.partial.insert(channel, Partial::new(announcement));
    }

    fn confirmed(&mut self, channel: u16, delivery_tag: u64, multiple: bool, ack: bool) {
        self.emit(Event::Confirmed {
            channel,
            delivery_tag,
            multiple,
            ack,
        });
    }

    fn finish_if_complete(&mut self, channel: u16) {
        if !self.partial.get(&channel).is_some_and(Partial::is_complete) {
            return;
        }
        let partial = self.partial.remove(&channel).expect("looked at above");
        self.emit(match partial.finish() {
            Content::Delivery(delivery) => Event::Delivery(channel, delivery),
            Content::Returned(returned) => Event::Returned(channel, returned),
        });
    }

    fn emit(&mut self, event: Event) {
        self.events.push_back(event);
    }
}

fn unannounced() -> Error {
    Error::Protocol("content without a method that announces it".to_owned())
}

/// What the broker shows of us, and the extensions that change what it sends.
fn client_properties(name: &str) -> FieldTable {
    let mut capabilities = FieldTable::default();
    for capability in [
        "publisher_confirms",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        // Without it a wrong password ends in a silent close instead of ACCESS_REFUSED.
        "authentication_failure_close",
    ] {
        capabilities.insert(capability.into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("product".into(), AMQPValue::LongString("threeways".into()));
    properties.insert("connection_name".into(), AMQPValue::LongString(name.into()));
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties
}

#[cfg(test)]
mod tests {
    use amq_protocol::{frame::AMQPContentHeader, protocol::basic};

    use super::*;

    fn connection() -> Connection {
        let url = Url::parse("amqp://guest:guest@127.0.0.1:5672/%2f").expect("valid");
        Connection::new(url, "test")
    }

    fn announced(body_size: u64) -> Vec<u8> {
        let deliver = basic::Deliver {
            consumer_tag: "c".into(),
            delivery_tag: 7,
            redelivered: true,
            exchange: "x".into(),
            routing_key: "k".into(),
        };
        let mut bytes = vec![];
        append_method(
            &mut bytes,
            1,
            AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)),
        );
        let header = AMQPContentHeader {
            class_id: 60,
            body_size,
            properties: BasicProperties::default(),
        };
        append_frame(&mut bytes, &AMQPFrame::Header(1, header));
        bytes
    }

    #[test]
    fn a_delivery_is_assembled_from_several_bodies() {
        let mut connection = connection();
        connection.receive(&announced(4)).expect("frames");
        assert_eq!(connection.next_event(), None);
        let mut bodies = vec![];
        append_frame(&mut bodies, &AMQPFrame::Body(1, b"ab".to_vec()));
        append_frame(&mut bodies, &AMQPFrame::Heartbeat);
        append_frame(&mut bodies, &AMQPFrame::Body(1, b"cd".to_vec()));
        connection.receive(&bodies).expect("frames");
        let Some(Event::Delivery(1, delivery)) = connection.next_event() else {
            panic!("a delivery was complete");
        };
        assert_eq!(delivery.body, b"abcd");
        assert_eq!((delivery.delivery_tag, delivery.redelivered), (7, true));
    }

    #[test]
    fn an_empty_body_needs_no_body_frame() {
        let mut connection = connection();
        connection.receive(&announced(0)).expect("frames");
        assert!(matches!(
            connection.next_event(),
            Some(Event::Delivery(1, _))
        ));
    }

    #[test]
    fn a_body_without_a_method_is_a_protocol_error() {
        let mut bytes = vec![];
        append_frame(&mut bytes, &AMQPFrame::Body(1, b"ab".to_vec()));
        assert!(connection().receive(&bytes).is_err());
    }

    #[test]
    fn a_close_is_answered_and_told() {
        let mut connection = connection();
        connection.sent(connection.outbound().len());
        let close = connection::Close {
            reply_code: 320,
            reply_text: "CONNECTION_FORCED".into(),
            class_id: 0,
            method_id: 0,
        };
        let mut bytes = vec![];
        append_method(
            &mut bytes,
            0,
            AMQPClass::Connection(connection::AMQPMethod::Close(close)),
        );
        connection.receive(&bytes).expect("frames");
        assert!(!connection.outbound().is_empty());
        assert!(matches!(
            connection.next_event(),
            Some(Event::Closed { code: 320, .. })
        ));
    }
}
