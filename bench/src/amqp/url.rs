//! Addresses of brokers, which hold a password and therefore are never shown as they are.

use std::fmt;

use amq_protocol::uri::{AMQPScheme, AMQPUri};

use super::Error;

/// A parsed `amqp://` URL; its `Debug` and `Display` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name, `guest` if the URL has none.
    pub user: String,
    /// Password, `guest` if the URL has none.
    pub password: String,
    /// Virtual host, `/` if the URL has none.
    pub vhost: String,
}

impl Url {
    /// Parses `amqp://user:password@host:port/vhost`; every part but the scheme has its default.
    ///
    /// # Errors
    /// [`Error::Url`] if it is no URL, or if it asks for TLS, which the instrument does not speak.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Url { reason };
        let uri: AMQPUri = text.parse().map_err(refuse)?;
        if uri.scheme == AMQPScheme::AMQPS {
            return Err(refuse("TLS is not supported".to_owned()));
        }
        let vhost = if uri.vhost.is_empty() {
            "/".to_owned()
        } else {
            uri.vhost
        };
        Ok(Self {
            host: uri.authority.host,
            port: uri.authority.port,
            user: uri.authority.userinfo.username,
            password: uri.authority.userinfo.password,
            vhost,
        })
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vhost = self.vhost.replace('/', "%2f");
        write!(f, "amqp://{}:***@{}/{vhost}", self.user, self.address())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The URL without its password, for logs and files; something unparsable is hidden altogether.
#[must_use]
pub fn redact(url: &str) -> String {
    Url::parse(url).map_or_else(|_| "amqp://***".to_owned(), |url| url.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url = "amqp://ada:s3cret@127.0.0.1:5673/%2f";
        assert_eq!(redact(url), "amqp://ada:***@127.0.0.1:5673/%2f");
        assert_eq!(redact("s3cret"), "amqp://***");
        let parsed = Url::parse(url).expect("valid");
        assert!(!format!("{parsed:?}").contains("s3cret"));
    }

    #[test]
    fn missing_parts_have_their_defaults() {
        let url = Url::parse("amqp://127.0.0.1").expect("valid");
        assert_eq!(
            (url.port, url.user.as_str(), url.vhost.as_str()),
            (5672, "guest", "/")
        );
    }

    #[test]
    fn tls_is_refused_with_a_reason() {
        let error = Url::parse("amqps://host").expect_err("TLS");
        assert!(error.to_string().contains("TLS is not supported"));
    }
}
