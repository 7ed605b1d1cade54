//! Problem documents (RFC 9457): a stable slug, a status and what to do about it.

use serde::Serialize;

use crate::limits::RETRY_AFTER_S;

/// Every reason for which the service refuses or fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The body is not JSON.
    InvalidJson,
    /// The request itself is malformed.
    BadRequest,
    /// No such path or key.
    NotFound,
    /// The path exists in the other profile only.
    NotInProfile,
    /// The path exists, the method does not.
    MethodNotAllowed {
        /// Value of the `Allow` header.
        allow: &'static str,
    },
    /// The request was not complete in time.
    RequestTimeout,
    /// The body is longer than the limit.
    BodyTooLarge,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// The body is JSON, but not what the route takes.
    Unprocessable,
    /// The request's head is longer than the limit.
    HeadTooLarge,
    /// A bug: caught, logged, and told without details.
    Internal,
    /// The device refused, closed or answered nonsense.
    DeviceFailed,
    /// No connection to the broker, or it blocks publishers, or no queue takes the message.
    BrokerUnavailable,
    /// Too many publishes, requests, jobs or device commands are at work already.
    Overloaded,
    /// The part of the service that owns the store does not answer.
    StoreUnavailable,
    /// The service is stopping.
    Draining,
    /// A handler was not done in time.
    HandlerTimeout,
    /// The device did not answer in time.
    DeviceTimeout,
    /// The broker did not confirm in time; the message may have arrived.
    ConfirmTimeout,
}

impl ProblemKind {
    /// HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidJson | Self::BadRequest => 400,
            Self::NotFound | Self::NotInProfile => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::RequestTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Unprocessable => 422,
            Self::HeadTooLarge => 431,
            Self::Internal => 500,
            Self::DeviceFailed => 502,
            Self::BrokerUnavailable
            | Self::Overloaded
            | Self::StoreUnavailable
            | Self::Draining => 503,
            Self::HandlerTimeout | Self::DeviceTimeout | Self::ConfirmTimeout => 504,
        }
    }

    /// Stable slug: the value of `type`.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid-json",
            Self::BadRequest => "bad-request",
            Self::NotFound => "not-found",
            Self::NotInProfile => "not-in-profile",
            Self::MethodNotAllowed { .. } => "method-not-allowed",
            Self::RequestTimeout => "request-timeout",
            Self::BodyTooLarge => "body-too-large",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::Unprocessable => "unprocessable",
            Self::HeadTooLarge => "head-too-large",
            Self::Internal => "internal",
            Self::DeviceFailed => "device-failed",
            Self::BrokerUnavailable => "broker-unavailable",
            Self::Overloaded => "overloaded",
            Self::StoreUnavailable => "store-unavailable",
            Self::Draining => "draining",
            Self::HandlerTimeout => "handler-timeout",
            Self::DeviceTimeout => "device-timeout",
            Self::ConfirmTimeout => "confirm-timeout",
        }
    }

    /// Short human-readable name.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::InvalidJson => "Invalid JSON",
            Self::BadRequest => "Bad request",
            Self::NotFound => "Not found",
            Self::NotInProfile => "Not in this profile",
            Self::MethodNotAllowed { .. } => "Method not allowed",
            Self::RequestTimeout => "Request timeout",
            Self::BodyTooLarge => "Body too large",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::Unprocessable => "Unprocessable",
            Self::HeadTooLarge => "Request head too large",
            Self::Internal => "Internal error",
            Self::DeviceFailed => "Device failed",
            Self::BrokerUnavailable => "Broker unavailable",
            Self::Overloaded => "Overloaded",
            Self::StoreUnavailable => "Store unavailable",
            Self::Draining => "Draining",
            Self::HandlerTimeout => "Handler timeout",
            Self::DeviceTimeout => "Device timeout",
            Self::ConfirmTimeout => "Confirm timeout",
        }
    }

    /// Seconds for `Retry-After`, for answers that a later try may better.
    #[must_use]
    pub const fn retry_after_s(self) -> Option<u32> {
        if self.status() == 503 {
            Some(RETRY_AFTER_S)
        } else {
            None
        }
    }
}

/// One wrong place in a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) to the place.
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

/// A refusal or failure with its explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which of the known reasons.
    pub kind: ProblemKind,
    /// What happened, in a sentence for the client.
    pub detail: String,
    /// Wrong places, for [`ProblemKind::Unprocessable`].
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem with an explanation.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// A body that is wrong at `pointer`.
    #[must_use]
    pub fn unprocessable(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let error = FieldError {
            pointer: pointer.into(),
            detail: detail.into(),
        };
        Self {
            kind: ProblemKind::Unprocessable,
            detail: error.detail.clone(),
            errors: vec![error],
        }
    }

    /// The document as it is serialised.
    #[must_use]
    pub fn document<'a>(&'a self, request_id: &'a str) -> ProblemDocument<'a> {
        ProblemDocument {
            slug: self.kind.slug(),
            title: self.kind.title(),
            status: self.kind.status(),
            detail: &self.detail,
            request_id,
            errors: &self.errors,
        }
    }
}

/// JSON form of a [`Problem`].
#[derive(Debug, Serialize)]
pub struct ProblemDocument<'a> {
    /// Slug.
    #[serde(rename = "type")]
    pub slug: &'static str,
    /// Short name.
    pub title: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Explanation.
    pub detail: &'a str,
    /// Id of the request, to be found in logs.
    pub request_id: &'a str,
    /// Wrong places.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub errors: &'a [FieldError],
}
