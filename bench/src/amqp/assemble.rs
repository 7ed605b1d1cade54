//! Puts a method, its header and its body frames together to one message.

use amq_protocol::protocol::{BasicProperties, basic};

/// A message from the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Tag to ack with, valid on the channel that delivered it.
    pub delivery_tag: u64,
    /// Whether the broker may have delivered it before.
    pub redelivered: bool,
    /// Exchange that it was published to.
    pub exchange: String,
    /// Routing key that it was published with.
    pub routing_key: String,
    /// Properties.
    pub properties: BasicProperties,
    /// Body.
    pub body: Vec<u8>,
}

/// A mandatory message that no queue took.
#[derive(Debug, Clone, PartialEq)]
pub struct Returned {
    /// Reply code, such as 312 for *no route*.
    pub code: u16,
    /// Reply text.
    pub text: String,
    /// Routing key of the message.
    pub routing_key: String,
    /// Properties of the message.
    pub properties: BasicProperties,
    /// Body of the message.
    pub body: Vec<u8>,
}

/// A method that announces content.
#[derive(Debug)]
pub(super) enum Announcement {
    Deliver(basic::Deliver),
    GetOk(basic::GetOk),
    Return(basic::Return),
}

/// A complete message.
#[derive(Debug)]
pub(super) enum Content {
    Delivery(Delivery),
    Returned(Returned),
}

/// A message of which frames are missing.
#[derive(Debug)]
pub(super) struct Partial {
    announcement: Announcement,
    properties: BasicProperties,
    expected: Option<usize>,
    body: Vec<u8>,
}

impl Partial {
    pub(super) fn new(announcement: Announcement) -> Self {
        Self {
            announcement,
            properties: BasicProperties::default(),
            expected: None,
            body: Vec::new(),
        }
    }

    pub(super) fn header(&mut self, properties: BasicProperties, body_size: u64) {
        let size = usize::try_from(body_size).expect("a body fits in memory");
        self.properties = properties;
        self.expected = Some(size);
        // The size is the peer's claim: reserve little, and let the body that comes decide.
        self.body.reserve(size.min(1 << 16));
    }

    pub(super) fn body(&mut self, part: &[u8]) {
        self.body.extend_from_slice(part);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.expected.is_some_and(|size| self.body.len() >= size)
    }

    pub(super) fn finish(self) -> Content {
        let (properties, body) = (self.properties, self.body);
        match self.announcement {
            Announcement::Deliver(deliver) => Content::Delivery(Delivery {
                delivery_tag: deliver.delivery_tag,
                redelivered: deliver.redelivered,
                exchange: deliver.exchange.into(),
                routing_key: deliver.routing_key.into(),
                properties,
                body,
            }),
            Announcement::GetOk(got) => Content::Delivery(Delivery {
                delivery_tag: got.delivery_tag,
                redelivered: got.redelivered,
                exchange: got.exchange.into(),
                routing_key: got.routing_key.into(),
                properties,
                body,
            }),
            Announcement::Return(returned) => Content::Returned(Returned {
                code: returned.reply_code,
                text: returned.reply_text.into(),
                routing_key: returned.routing_key.into(),
                properties,
                body,
            }),
        }
    }
}
