//! The broker's URL, taken apart for client libraries that take the parts.

/// Port of AMQP without TLS.
const AMQP_PORT: u16 = 5672;

/// Where the broker is, and who the service is to it.
///
/// There is no `Debug`: a password must not reach a log by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Host name or address; an IPv6 address stands without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
    /// Virtual host.
    pub vhost: String,
}

impl BrokerUrl {
    /// Parses `amqp://user:password@host:port/vhost`; what is left out is as RabbitMQ has it:
    /// `guest:guest`, port 5672, virtual host `/`.
    ///
    /// # Errors
    /// Says which part is wrong; the password is not repeated.
    /// A query is refused, because heartbeat and frame size have flags of their own.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url
            .strip_prefix("amqp://")
            .ok_or("the broker's URL must start with amqp://")?;
        if rest.contains(['?', '#']) {
            return Err("the broker's URL takes no query: use the flags".into());
        }
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (host, port) = host_and_port(address)?;
        Ok(Self {
            host,
            port,
            user: decode_or(user, "guest")?,
            password: decode_or(password, "guest")?,
            vhost: decode_or(vhost, "/")?,
        })
    }
}

/// Splits `host:port`, `[v6]:port` or either without a port.
fn host_and_port(address: &str) -> Result<(String, u16), String> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or("the broker's address lacks a ]")?;
            (host, port.strip_prefix(':'))
        }
        None => match address.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        None | Some("") => AMQP_PORT,
        // What stands there is not repeated: in `amqp://me:secret` it is a password.
        Some(port) => port
            .parse()
            .map_err(|_| "the broker's port is no number up to 65535")?,
    };
    if host.contains(':') && !address.starts_with('[') {
        return Err("the broker's host has a colon: an IPv6 address stands in brackets".into());
    }
    let host = if host.is_empty() { "localhost" } else { host };
    Ok((host.to_owned(), port))
}

/// Decodes percent signs; an empty part takes its default.
fn decode_or(part: &str, default: &str) -> Result<String, String> {
    const WRONG: &str = "the broker's URL has a wrong percent-encoding";
    if part.is_empty() {
        return Ok(default.to_owned());
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit().ok_or(WRONG)?, digit().ok_or(WRONG)?);
            bytes.push(u8::try_from(high * 16 + low).map_err(|_| WRONG)?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| WRONG.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (String, u16, String, String, String) {
        let url = BrokerUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        (url.host, url.port, url.user, url.password, url.vhost)
    }

    fn owned(
        (host, port, user, password, vhost): (&str, u16, &str, &str, &str),
    ) -> (String, u16, String, String, String) {
        (
            host.into(),
            port,
            user.into(),
            password.into(),
            vhost.into(),
        )
    }

    #[test]
    fn what_is_left_out_is_as_the_broker_has_it() {
        for url in [
            "amqp://localhost",
            "amqp://",
            "amqp://guest:guest@localhost:5672/%2f",
        ] {
            assert_eq!(
                parts(url),
                owned(("localhost", 5672, "guest", "guest", "/"))
            );
        }
    }

    #[test]
    fn every_part_may_be_given_and_encoded() {
        let url = "amqp://me:p%40ss:w@[::1]:7/a%20b";
        assert_eq!(parts(url), owned(("::1", 7, "me", "p@ss:w", "a b")));
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in [
            "http://secret@host",
            "amqp://u:secret@host:port",
            "amqp://u:secret%zz@host",
            "amqp://u:secret@host?heartbeat=1",
            "amqp://u:secret@[::1",
            "amqp://u:secret",
            "amqp://u:secret:5672/%2f",
        ] {
            let error = BrokerUrl::parse(url).err().expect(url);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
