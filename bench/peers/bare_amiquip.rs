//! The bare client loop beside threads and processes: amiquip with `TCP_NODELAY`, consume and ack.
//!
//! usage: `bare-amiquip URL QUEUE PREFETCH ACK_BATCH MESSAGES`; prints one line of JSON.

use amiquip::{
    Auth, Connection, ConnectionOptions, ConnectionTuning, ConsumerMessage, ConsumerOptions, Result,
};

#[path = "drain.rs"]
mod drain;
use drain::{Arguments, Stopwatch};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse()?;
    let stream = std::net::TcpStream::connect((arguments.host.as_str(), arguments.port))?;
    stream.set_nodelay(true)?;
    let stream = mio_06::net::TcpStream::from_stream(stream)?;
    let options = ConnectionOptions::default()
        .auth(Auth::Plain {
            username: arguments.user.clone(),
            password: arguments.password.clone(),
        })
        .frame_max(8192);
    let mut connection =
        Connection::insecure_open_stream(stream, options, ConnectionTuning::default())?;
    consume(&mut connection, &arguments)?;
    Ok(connection.close()?)
}

fn consume(connection: &mut Connection, arguments: &Arguments) -> Result<()> {
    let channel = connection.open_channel(None)?;
    channel.qos(0, arguments.prefetch, false)?;
    let queue = channel.queue_declare_passive(arguments.queue.as_str())?;
    let consumer = queue.consume(ConsumerOptions::default())?;
    let mut watch = Stopwatch::default();
    for message in consumer.receiver() {
        let ConsumerMessage::Delivery(delivery) = message else {
            break;
        };
        let tag = watch.count(arguments);
        if tag.ack {
            consumer.ack_multiple(delivery)?;
        }
        if tag.last {
            break;
        }
    }
    watch.print();
    Ok(())
}
