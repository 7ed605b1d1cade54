//! Readiness from the state of the parts.

use contract::{
    reply::Reply,
    shapes::{Check, Checks, Health, Readiness},
};

/// State of the AMQP side from what its connections say.
#[must_use]
pub const fn amqp_check(consuming: bool, publishing: bool, blocked: bool) -> Check {
    match (consuming && publishing, blocked) {
        (false, _) => Check::Connecting,
        (true, true) => Check::Blocked,
        (true, false) => Check::Up,
    }
}

/// The answer of `/readyz`: 200 only if every part is up.
#[must_use]
pub fn readyz(checks: Checks) -> Reply {
    let ready = [checks.http, checks.amqp, checks.ipc]
        .iter()
        .all(|check| *check == Check::Up);
    let (code, status) = if ready {
        (200, "ready")
    } else {
        (503, "unavailable")
    };
    Reply::json(code, &Readiness { status, checks })
}

/// The answer of `/healthz`.
#[must_use]
pub fn healthz() -> Reply {
    Reply::json(200, &Health { status: "ok" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_that_is_not_up_makes_the_service_not_ready() {
        let up = Checks {
            http: Check::Up,
            amqp: Check::Up,
            ipc: Check::Up,
        };
        assert_eq!(readyz(up).status, 200);
        for amqp in [
            Check::Down,
            Check::Blocked,
            Check::Connecting,
            Check::Draining,
        ] {
            let reply = readyz(Checks { amqp, ..up });
            assert_eq!(reply.status, 503);
            assert!(String::from_utf8_lossy(&reply.body).starts_with(r#"{"status":"unavailable""#));
        }
    }

    #[test]
    fn a_blocked_publisher_is_told_from_a_missing_connection() {
        assert_eq!(amqp_check(true, true, false), Check::Up);
        assert_eq!(amqp_check(true, true, true), Check::Blocked);
        assert_eq!(amqp_check(true, false, true), Check::Connecting);
        assert_eq!(amqp_check(false, true, false), Check::Connecting);
    }
}
