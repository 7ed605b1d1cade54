//! Which path takes which method in which profile.

use serde::{Deserialize, Serialize};

use crate::{
    problem::{Problem, ProblemKind},
    settings::Profile,
};

/// A route of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Route {
    /// `GET /healthz`: the process answers; never looks at the broker.
    Healthz,
    /// `GET /readyz`: the service can do its job.
    Readyz,
    /// `GET /metrics`: Prometheus text.
    Metrics,
    /// `GET /info`: who answers.
    Info,
    /// `POST /api/v1/flatten`: pure computation.
    Flatten,
    /// `POST /api/v1/events`: publish and wait for the confirm.
    Events,
    /// `POST /api/v1/device/commands`: wait for a device.
    DeviceCommands,
    /// `GET /api/v1/keys`: page of known keys.
    Keys,
    /// `GET /api/v1/latest/{key}`: latest values of a key.
    Latest,
}

/// A request method, as far as the service knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`: like `GET`, without the body.
    Head,
    /// `POST`
    Post,
    /// `OPTIONS`: answers what is allowed.
    Options,
    /// Any other.
    Other,
}

impl Method {
    /// Parses the method token; methods are case-sensitive (RFC 9110, section 9.1).
    #[must_use]
    pub fn parse(token: &str) -> Self {
        match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }

    /// Label in metrics; unknown methods share one, so that a client cannot grow the label set.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Options => "OPTIONS",
            Self::Other => "OTHER",
        }
    }
}

/// Prefix of the only path with a parameter.
const LATEST_PREFIX: &str = "/api/v1/latest/";

impl Route {
    /// Every route.
    pub const ALL: [Self; 9] = [
        Self::Healthz,
        Self::Readyz,
        Self::Metrics,
        Self::Info,
        Self::Flatten,
        Self::Events,
        Self::DeviceCommands,
        Self::Keys,
        Self::Latest,
    ];

    /// Path template, also the label in metrics.
    #[must_use]
    pub const fn template(self) -> &'static str {
        match self {
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Info => "/info",
            Self::Flatten => "/api/v1/flatten",
            Self::Events => "/api/v1/events",
            Self::DeviceCommands => "/api/v1/device/commands",
            Self::Keys => "/api/v1/keys",
            Self::Latest => "/api/v1/latest/{key}",
        }
    }

    /// Whether the route takes a JSON body by `POST`; the others are read by `GET` and `HEAD`.
    #[must_use]
    pub const fn takes_body(self) -> bool {
        matches!(self, Self::Flatten | Self::Events | Self::DeviceCommands)
    }

    /// Value of `Allow`.
    #[must_use]
    pub const fn allow(self) -> &'static str {
        if self.takes_body() {
            "POST, OPTIONS"
        } else {
            "GET, HEAD, OPTIONS"
        }
    }

    /// Whether the route exists in `profile`.
    #[must_use]
    pub const fn exists_in(self, profile: Profile) -> bool {
        matches!(profile, Profile::Shared) || !matches!(self, Self::Keys | Self::Latest)
    }

    /// Whether the route takes `method` itself (`OPTIONS` is answered for every route).
    #[must_use]
    pub const fn accepts(self, method: Method) -> bool {
        match method {
            Method::Get | Method::Head => !self.takes_body(),
            Method::Post => self.takes_body(),
            Method::Options | Method::Other => false,
        }
    }
}

/// What a request line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution<'a> {
    /// A route, with the path parameter of [`Route::Latest`] (empty elsewhere).
    Route(Route, &'a str),
    /// `OPTIONS` on a known path.
    Options(Route),
    /// Nothing that the service offers.
    Refused(Problem),
}

/// Finds the route of a path (without its query).
#[must_use]
pub fn find(path: &str) -> Option<(Route, &str)> {
    if let Some(key) = path.strip_prefix(LATEST_PREFIX) {
        return (!key.is_empty() && !key.contains('/')).then_some((Route::Latest, key));
    }
    Route::ALL
        .into_iter()
        .find(|route| route.template() == path)
        .map(|route| (route, ""))
}

/// Resolves a request line against the routes of `profile`.
#[must_use]
pub fn resolve(profile: Profile, method: Method, path: &str) -> Resolution<'_> {
    match find(path) {
        None => Resolution::Refused(not_found()),
        Some((route, _)) if !route.exists_in(profile) => Resolution::Refused(not_in_profile(route)),
        Some((route, _)) if method == Method::Options => Resolution::Options(route),
        Some((route, key)) if route.accepts(method) => Resolution::Route(route, key),
        Some((route, _)) => Resolution::Refused(method_not_allowed(route)),
    }
}

/// The answer to an unknown path.
#[must_use]
pub fn not_found() -> Problem {
    Problem::new(ProblemKind::NotFound, "no such path")
}

/// The answer to a path of the other profile.
#[must_use]
pub fn not_in_profile(route: Route) -> Problem {
    let detail = format!("{} needs the profile shared", route.template());
    Problem::new(ProblemKind::NotInProfile, detail)
}

/// The answer to a wrong method.
#[must_use]
pub fn method_not_allowed(route: Route) -> Problem {
    let allow = route.allow();
    let detail = format!("{} takes {allow}", route.template());
    Problem::new(ProblemKind::MethodNotAllowed { allow }, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_resolves_to_its_route() {
        for route in Route::ALL {
            let path = route.template().replace("{key}", "k");
            let method = if route.takes_body() {
                Method::Post
            } else {
                Method::Get
            };
            assert!(
                matches!(resolve(Profile::Shared, method, &path), Resolution::Route(found, _) if found == route)
            );
        }
    }

    #[test]
    fn head_goes_where_get_goes() {
        assert_eq!(
            resolve(Profile::Shared, Method::Head, "/api/v1/latest/a"),
            Resolution::Route(Route::Latest, "a")
        );
    }

    #[test]
    fn refusals_tell_what_would_have_been_right() {
        let slug = |profile, method, path: &str| match resolve(profile, method, path) {
            Resolution::Refused(problem) => problem.kind.slug(),
            other => panic!("{other:?}"),
        };
        assert_eq!(slug(Profile::Shared, Method::Get, "/nowhere"), "not-found");
        assert_eq!(
            slug(Profile::Shared, Method::Get, "/api/v1/latest/"),
            "not-found"
        );
        assert_eq!(
            slug(Profile::Shared, Method::Get, "/api/v1/latest/a/b"),
            "not-found"
        );
        assert_eq!(
            slug(Profile::Shared, Method::Get, "/api/v1/flatten"),
            "method-not-allowed"
        );
        assert_eq!(
            slug(Profile::Shared, Method::Other, "/healthz"),
            "method-not-allowed"
        );
        assert_eq!(
            slug(Profile::Isolated, Method::Get, "/api/v1/keys"),
            "not-in-profile"
        );
    }
}
