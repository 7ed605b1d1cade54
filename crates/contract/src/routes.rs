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
    /// `POST /api/v1/series/query`: series of fields, thinned out on demand.
    SeriesQuery,
    /// `DELETE /api/v1/keys/{key}`: forgets a key.
    Key,
    /// `POST /api/v1/jobs`: starts a job in the background.
    Jobs,
    /// `GET` and `DELETE /api/v1/jobs/{id}`: looks after a job, or cancels it.
    Job,
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
    /// `DELETE`
    Delete,
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
            "DELETE" => Self::Delete,
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
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other => "OTHER",
        }
    }
}

/// Paths that end in a parameter, by what stands before it.
const WITH_PARAMETER: [(&str, Route); 3] = [
    ("/api/v1/latest/", Route::Latest),
    ("/api/v1/keys/", Route::Key),
    ("/api/v1/jobs/", Route::Job),
];

impl Route {
    /// Every route.
    pub const ALL: [Self; 13] = [
        Self::Healthz,
        Self::Readyz,
        Self::Metrics,
        Self::Info,
        Self::Flatten,
        Self::Events,
        Self::DeviceCommands,
        Self::Keys,
        Self::Latest,
        Self::SeriesQuery,
        Self::Key,
        Self::Jobs,
        Self::Job,
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
            Self::SeriesQuery => "/api/v1/series/query",
            Self::Key => "/api/v1/keys/{key}",
            Self::Jobs => "/api/v1/jobs",
            Self::Job => "/api/v1/jobs/{id}",
        }
    }

    /// The methods that the route takes, beside `OPTIONS`, which every route answers.
    #[must_use]
    pub const fn methods(self) -> &'static [Method] {
        match self {
            Self::Flatten
            | Self::Events
            | Self::DeviceCommands
            | Self::SeriesQuery
            | Self::Jobs => &[Method::Post],
            Self::Key => &[Method::Delete],
            Self::Job => &[Method::Get, Method::Head, Method::Delete],
            Self::Healthz
            | Self::Readyz
            | Self::Metrics
            | Self::Info
            | Self::Keys
            | Self::Latest => &[Method::Get, Method::Head],
        }
    }

    /// Value of `Allow`.
    #[must_use]
    pub const fn allow(self) -> &'static str {
        match self.methods() {
            [Method::Post] => "POST, OPTIONS",
            [Method::Delete] => "DELETE, OPTIONS",
            [_, _, Method::Delete] => "GET, HEAD, DELETE, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    /// Whether the route exists in `profile`.
    #[must_use]
    pub const fn exists_in(self, profile: Profile) -> bool {
        let reads_the_store = matches!(
            self,
            Self::Keys | Self::Latest | Self::SeriesQuery | Self::Key
        );
        matches!(profile, Profile::Shared) || !reads_the_store
    }

    /// Whether the route takes `method` itself (`OPTIONS` is answered for every route).
    #[must_use]
    pub fn accepts(self, method: Method) -> bool {
        self.methods().contains(&method)
    }
}

/// What a request line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution<'a> {
    /// A route, with the parameter at the end of its path (empty elsewhere).
    Route(Route, &'a str),
    /// `OPTIONS` on a known path.
    Options(Route),
    /// Nothing that the service offers.
    Refused(Problem),
}

/// Finds the route of a path (without its query).
#[must_use]
pub fn find(path: &str) -> Option<(Route, &str)> {
    for (prefix, route) in WITH_PARAMETER {
        if let Some(parameter) = path.strip_prefix(prefix) {
            // One job has one path: neither `+7` nor `007`, which a number's parser would take.
            let is_written_so =
                route != Route::Job || parameter.starts_with(|it| matches!(it, '1'..='9'));
            let is_one = !parameter.is_empty() && !parameter.contains('/');
            return (is_one && is_written_so).then_some((route, parameter));
        }
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
        Some((route, parameter)) if route.accepts(method) => Resolution::Route(route, parameter),
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
            let path = route.template().replace("{key}", "k").replace("{id}", "1");
            for method in route.methods() {
                assert!(
                    matches!(resolve(Profile::Shared, *method, &path), Resolution::Route(found, _) if found == route)
                );
                assert!(route.allow().contains(method.as_str()), "{route:?}");
            }
            let listed = route.allow().split(", ").count();
            assert_eq!(listed, route.methods().len() + 1, "{route:?}");
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
        for id in ["+7", "007", "0x7", "first"] {
            let path = format!("/api/v1/jobs/{id}");
            assert_eq!(slug(Profile::Shared, Method::Get, &path), "not-found");
        }
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
