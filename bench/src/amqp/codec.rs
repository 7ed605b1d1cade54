//! Bytes to frames and frames to bytes.

use std::io::Write;

use amq_protocol::{
    frame::{AMQPFrame, BackToTheBuffer, SerializeFn, WriteContext, gen_frame, parse_frame},
    protocol::{
        AMQPClass, BasicProperties,
        basic::gen_properties,
        constants::{FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD},
    },
};

use super::Error;

/// Bytes of a frame beside its payload: type, channel, length and end mark.
const FRAME_OVERHEAD: usize = 8;
/// Class and method id of `basic.publish`.
const BASIC_PUBLISH: [u16; 2] = [60, 40];

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Takes bytes as they came from the socket.
    pub fn feed(&mut self, bytes: &[u8]) {
        // Compact only when everything before was consumed or the dead part dominates, so that a
        // burst of small frames is not moved once per frame.
        if self.start > 0 && self.start * 2 >= self.bytes.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete frame, if there is one.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the bytes are no frame.
    pub fn next_frame(&mut self) -> Result<Option<AMQPFrame>, Error> {
        let rest = &self.bytes[self.start..];
        if !is_complete(rest)? {
            return Ok(None);
        }
        match parse_frame(rest) {
            Ok((left, frame)) => {
                self.start = self.bytes.len() - left.len();
                Ok(Some(frame))
            }
            Err(error) => Err(Error::Protocol(error.to_string())),
        }
    }
}

/// Whether `bytes` begin with a whole frame; spares the parser the many partial ones, and a peer
/// that speaks something else is noticed by its first byte.
fn is_complete(bytes: &[u8]) -> Result<bool, Error> {
    match bytes.first() {
        None => return Ok(false),
        Some(b'A') => return Ok(bytes.len() >= FRAME_OVERHEAD),
        Some(&(FRAME_METHOD | FRAME_HEADER | FRAME_BODY | FRAME_HEARTBEAT)) => {}
        Some(other) => return Err(Error::Protocol(format!("no frame begins with {other}"))),
    }
    let Some(head) = bytes.first_chunk::<7>() else {
        return Ok(false);
    };
    let payload = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    Ok(bytes.len() >= payload as usize + FRAME_OVERHEAD)
}

/// Appends one frame.
pub fn append_frame(out: &mut Vec<u8>, frame: &AMQPFrame) {
    append(out, gen_frame(frame));
}

/// Appends a method call on `channel`.
pub fn append_method(out: &mut Vec<u8>, channel: u16, method: AMQPClass) {
    append_frame(out, &AMQPFrame::Method(channel, method));
}

/// Where a publish goes.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// Exchange, at most 255 bytes; empty for the default exchange.
    pub exchange: &'a str,
    /// Routing key, at most 255 bytes.
    pub routing_key: &'a str,
    /// Whether the broker shall return the message if no queue takes it.
    pub mandatory: bool,
}

/// Appends a complete publish: method, header and as many body frames as `frame_max` asks for.
///
/// It writes the frames in place instead of building `AMQPFrame`s, because those own copies of
/// the names, the properties and the body.
///
/// # Panics
/// If exchange or routing key exceed 255 bytes.
pub fn append_publish(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: u32,
    route: Route<'_>,
    properties: &BasicProperties,
    body: &[u8],
) {
    in_frame(out, FRAME_METHOD, channel, |out| {
        out.extend(BASIC_PUBLISH.iter().flat_map(|id| id.to_be_bytes()));
        out.extend([0, 0]); // a field that AMQP 0-9-1 no longer uses
        append_short_string(out, route.exchange);
        append_short_string(out, route.routing_key);
        out.push(u8::from(route.mandatory));
    });
    in_frame(out, FRAME_HEADER, channel, |out| {
        out.extend(BASIC_PUBLISH[0].to_be_bytes());
        out.extend([0, 0]); // weight, unused
        out.extend((body.len() as u64).to_be_bytes());
        append(out, gen_properties(properties));
    });
    let chunk = (frame_max as usize).saturating_sub(FRAME_OVERHEAD).max(1);
    for part in body.chunks(chunk) {
        in_frame(out, FRAME_BODY, channel, |out| out.extend_from_slice(part));
    }
}

/// Appends a frame whose payload `write` appends; the length is filled in afterwards.
fn in_frame(out: &mut Vec<u8>, kind: u8, channel: u16, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    let length_at = out.len();
    out.extend([0; 4]);
    write(out);
    let payload = u32::try_from(out.len() - length_at - 4).expect("frames stay below frame_max");
    out[length_at..length_at + 4].copy_from_slice(&payload.to_be_bytes());
    out.push(FRAME_END);
}

fn append_short_string(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("short strings have at most 255 bytes"));
    out.extend_from_slice(text.as_bytes());
}

fn append<S>(out: &mut Vec<u8>, generate: S)
where
    S: SerializeFn<Vec<u8>>,
    Vec<u8>: Write + BackToTheBuffer,
{
    let context = WriteContext::from(std::mem::take(out));
    let (bytes, _) = generate(context)
        .expect("writing into memory cannot fail")
        .into_inner();
    *out = bytes;
}

#[cfg(test)]
mod tests {
    use amq_protocol::protocol::basic;

    use super::*;

    fn frames(bytes: &[u8]) -> Vec<AMQPFrame> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        // One byte at a time: every cut between two reads must be survived.
        for byte in bytes {
            decoder.feed(&[*byte]);
            frames.extend(decoder.next_frame().expect("valid frames"));
        }
        frames
    }

    #[test]
    fn a_publish_written_in_place_is_what_the_codec_would_write() {
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id("m-1".into());
        let route = Route {
            exchange: "brewcast.history",
            routing_key: "sensor-1",
            mandatory: true,
        };
        let mut bytes = vec![];
        append_publish(&mut bytes, 3, 16, route, &properties, b"0123456789");

        let mut expected = vec![];
        let publish = basic::Publish {
            exchange: "brewcast.history".into(),
            routing_key: "sensor-1".into(),
            mandatory: true,
            immediate: false,
        };
        append_method(
            &mut expected,
            3,
            AMQPClass::Basic(basic::AMQPMethod::Publish(publish)),
        );
        let header = amq_protocol::frame::AMQPContentHeader {
            class_id: 60,
            body_size: 10,
            properties,
        };
        append_frame(&mut expected, &AMQPFrame::Header(3, header));
        append_frame(&mut expected, &AMQPFrame::Body(3, b"01234567".to_vec()));
        append_frame(&mut expected, &AMQPFrame::Body(3, b"89".to_vec()));
        assert_eq!(bytes, expected);
        assert_eq!(frames(&bytes).len(), 4);
    }

    #[test]
    fn another_protocol_is_refused() {
        let mut decoder = Decoder::default();
        decoder.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        assert!(decoder.next_frame().is_err());
    }
}
