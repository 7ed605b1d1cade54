//! Faults of the broker, and of the way to it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use amq_protocol::protocol::{AMQPClass, queue};
use anyhow::{Context as _, ensure};
use contract::amqp::INGEST_QUEUE;

use super::super::account::Excuse;
use super::super::stage::{NAME, Setup, Stage};
use super::Cause;
use crate::broker::Broker;

/// SIGKILL to the broker; it is started again on the same data.
pub(in crate::faults) struct Killed;

impl Cause for Killed {
    fn prepare(&mut self, setup: &mut Setup<'_>) -> anyhow::Result<()> {
        Ok(setup.need_private_node()?)
    }

    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        Ok(stage.broker.kill()?)
    }

    fn heal(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        Ok(stage.broker.resume()?)
    }
}

/// `connection.close` from the broker to every connection of the service.
pub(in crate::faults) struct ConnectionsClosed;

impl Cause for ConnectionsClosed {
    fn prepare(&mut self, setup: &mut Setup<'_>) -> anyhow::Result<()> {
        Ok(setup.need_private_node()?)
    }

    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        // By name, since the load's own connection must stay; the tool itself takes a second to
        // come up and to end, so the node tells when it closed them.
        let close = format!(
            "L = [rabbit_networking:close_connection(P, \"fault campaign\") || \
             [{{pid, P}}, {{client_properties, C}}] <- \
             rabbit_networking:connection_info_all([pid, client_properties]), \
             {{_, _, N}} <- [lists:keyfind(<<\"connection_name\">>, 1, C)], \
             binary:match(N, <<\"-{NAME}-\">>) =/= nomatch], \
             {{length(L), erlang:system_time(millisecond)}}."
        );
        let (count, at) = evaluate_at(stage.broker, &close)?;
        ensure!(
            count >= 2,
            "the service has {count} connections to the broker"
        );
        stage.ended = Some(at);
        stage.note("connections closed", count as f64);
        Ok(())
    }
}

/// `queue.delete` by somebody else: the service's consumer is cancelled.
pub(in crate::faults) struct QueueDeleted;

impl Cause for QueueDeleted {
    fn prepare(&mut self, setup: &mut Setup<'_>) -> anyhow::Result<()> {
        Ok(setup.need_private_node()?)
    }

    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let delete = queue::Delete {
            queue: INGEST_QUEUE.into(),
            if_unused: false,
            if_empty: false,
            nowait: false,
        };
        let method = AMQPClass::Queue(queue::AMQPMethod::Delete(delete));
        stage.broker.session()?.call("queue.delete", method)?;
        // What lay in it, delivered or not, is gone by the administrator's will and not lost by
        // the service; what the service takes from now on is its own affair.
        stage.excuse = Some(Excuse::destroyed(stage.load.at(Instant::now())));
        Ok(())
    }
}

/// The broker is short of memory and stops reading from publishers, and then has enough again.
#[derive(Default)]
pub(in crate::faults) struct MemoryAlarm {
    /// The limit to return to, as the node prints it.
    watermark: String,
}

impl Cause for MemoryAlarm {
    fn prepare(&mut self, setup: &mut Setup<'_>) -> anyhow::Result<()> {
        Ok(setup.need_private_node()?)
    }

    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let raise = "W = vm_memory_monitor:get_vm_memory_high_watermark(), \
                     vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1}), W.";
        let watermark = stage.broker.control(&["eval", raise])?;
        watermark.trim().clone_into(&mut self.watermark);
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let watermark = &self.watermark;
        let clear = format!(
            "vm_memory_monitor:set_vm_memory_high_watermark({watermark}), \
             {{0, erlang:system_time(millisecond)}}."
        );
        let (_, at) = evaluate_at(stage.broker, &clear)?;
        stage.ended = Some(at);
        Ok(())
    }
}

/// The network to the broker swallows everything, and no socket is closed.
pub(in crate::faults) struct Silent;

impl Cause for Silent {
    fn prepare(&mut self, setup: &mut Setup<'_>) -> anyhow::Result<()> {
        setup.proxied = true;
        // The default of 10 s would make the fault longer than the campaign has time for.
        let heartbeat = ("BC_HEARTBEAT_S".to_owned(), "1".to_owned());
        setup.environment.extend([heartbeat]);
        Ok(())
    }

    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let proxy = stage.proxy.as_ref().context("there is no proxy")?;
        proxy.fall_silent();
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let is_noticed = stage.get("/readyz").is_err();
        stage.note(
            "silence noticed (1) or not (0)",
            f64::from(u8::from(is_noticed)),
        );
        let proxy = stage.proxy.as_ref().context("there is no proxy")?;
        proxy.speak();
        Ok(())
    }
}

/// Evaluates an expression of the form `{Number, Milliseconds since the epoch}` in the node.
fn evaluate_at(broker: &Broker, expression: &str) -> anyhow::Result<(u64, Instant)> {
    let printed = broker.control(&["eval", expression])?;
    let (number, ms) = pair(&printed).with_context(|| format!("the node says {printed}"))?;
    let at = UNIX_EPOCH + Duration::from_millis(ms);
    let ago = SystemTime::now().duration_since(at).unwrap_or_default();
    let now = Instant::now();
    Ok((number, now.checked_sub(ago).unwrap_or(now)))
}

fn pair(printed: &str) -> Option<(u64, u64)> {
    let inner = printed.trim().strip_prefix('{')?.strip_suffix('}')?;
    let (number, ms) = inner.split_once(',')?;
    Some((number.trim().parse().ok()?, ms.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_read_as_the_node_prints_it() {
        assert_eq!(pair("{2,1700000000000}\n"), Some((2, 1_700_000_000_000)));
        assert_eq!(pair("{error, nodedown}"), None);
    }
}
