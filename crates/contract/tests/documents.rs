//! Holds `openapi.yaml` and `asyncapi.yaml` against the code, in both directions.

use std::collections::{BTreeMap, BTreeSet};

use contract::{
    Method, Problem, ProblemKind, Profile, QueueType, Route,
    amqp::{self, ArgumentValue},
    limits,
    shapes::{
        Check, Checks, DeviceCommand, Event, Health, Info, Job, JobKind, JobRequest, JobStatus,
        KeysPage, Latest, Published, Readiness, Series, SeriesAnswer, SeriesQuery, Settled,
        Settlement,
    },
};
use serde::Serialize;
use serde_json::{Map, Value, json};

fn document(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("valid YAML")
}

fn openapi() -> Value {
    document(include_str!("../openapi.yaml"))
}

fn asyncapi() -> Value {
    document(include_str!("../asyncapi.yaml"))
}

fn names(object: &Value) -> BTreeSet<String> {
    object
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect()
}

fn strings(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().expect("a list").iter();
    list.map(|it| it.as_str().expect("a string").to_owned())
        .collect()
}

fn serialised(shape: &impl Serialize) -> Value {
    serde_json::to_value(shape).expect("the contract's shapes serialise")
}

#[test]
fn openapi_has_every_route_with_its_methods_and_no_other() {
    let document = openapi();
    let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for route in Route::ALL {
        let methods = route.methods().iter();
        // HEAD is GET without the body: OpenAPI would list every route twice.
        let methods = methods.filter(|method| **method != Method::Head);
        let methods = methods.map(|method| method.as_str().to_lowercase());
        expected.insert(route.template().to_owned(), methods.collect());
    }
    let paths = document["paths"].as_object().expect("paths");
    let found = paths.iter().map(|(path, item)| (path.clone(), names(item)));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
}

#[test]
fn openapi_tells_which_routes_need_the_shared_profile() {
    let document = openapi();
    for route in Route::ALL {
        let item = document["paths"][route.template()]
            .as_object()
            .expect("a path");
        for operation in item.values() {
            assert_eq!(
                operation["x-profile"] == "shared",
                !route.exists_in(Profile::Isolated),
                "{route:?}"
            );
        }
    }
}

/// One value of each shape, with everything optional in it.
fn shapes() -> Vec<(&'static str, Value)> {
    let checks = Checks {
        http: Check::Up,
        amqp: Check::Up,
        ipc: Check::Up,
    };
    let readiness = Readiness {
        status: "ready",
        checks,
    };
    let problem = Problem::unprocessable("", "");
    let mut shapes = vec![
        ("Health", serialised(&Health { status: "ok" })),
        ("Checks", serialised(&checks)),
        ("Readiness", serialised(&readiness)),
        ("Info", serialised(&info())),
        ("Latest", serialised(&latest())),
        ("SeriesQuery", serialised(&query())),
        ("Problem", serialised(&problem.document(""))),
        ("FieldError", serialised(&problem.errors[0])),
    ];
    shapes.extend(bodies());
    shapes.extend(answers());
    shapes
}

fn bodies() -> [(&'static str, Value); 3] {
    let event = Event {
        key: String::new(),
        data: Map::new(),
    };
    let command = DeviceCommand {
        command: String::new(),
        args: Value::Null,
    };
    let job = JobRequest {
        kind: JobKind::Cpu,
        duration_ms: 1,
    };
    [
        ("Event", serialised(&event)),
        ("DeviceCommand", serialised(&command)),
        ("JobRequest", serialised(&job)),
    ]
}

fn answers() -> [(&'static str, Value); 5] {
    let published = Published {
        message_id: String::new(),
    };
    let page = KeysPage {
        keys: Vec::new(),
        next: Some(String::new()),
    };
    let series = Series {
        field: String::new(),
        points: Vec::new(),
    };
    let all_series = SeriesAnswer {
        series: vec![series.clone()],
    };
    let job = Job {
        id: 1,
        kind: JobKind::Io,
        duration_ms: 1,
        status: JobStatus::Done,
        progress: 1.0,
    };
    [
        ("Published", serialised(&published)),
        ("KeysPage", serialised(&page)),
        ("Series", serialised(&series)),
        ("SeriesAnswer", serialised(&all_series)),
        ("Job", serialised(&job)),
    ]
}

fn info() -> Info {
    Info {
        model: String::new(),
        variant: String::new(),
        profile: String::new(),
        version: String::new(),
        name: String::new(),
        pids: Vec::new(),
        threads: 1,
        started_at: String::new(),
        http_workers: 1,
    }
}

fn latest() -> Latest {
    Latest {
        key: String::new(),
        fields: BTreeMap::new(),
        seq: 1,
        received_at: String::new(),
        expires_at: String::new(),
    }
}

fn query() -> SeriesQuery {
    SeriesQuery {
        fields: Vec::new(),
        start: Some(String::new()),
        end: Some(String::new()),
        duration: Some(1.0),
        limit: Some(1),
        downsample: Some(1.0),
    }
}

#[test]
fn the_schemas_have_the_fields_of_the_shapes() {
    let document = openapi();
    let schemas = &document["components"]["schemas"];
    for (name, shape) in shapes() {
        assert_eq!(names(&schemas[name]["properties"]), names(&shape), "{name}");
        for required in strings(&schemas[name]["required"]) {
            assert!(shape.get(&required).is_some(), "{name}: {required}");
        }
    }
    let asyncapi = asyncapi();
    let settled = Settled {
        message_id: String::new(),
        outcome: Settlement::Ok,
    };
    let schema = &asyncapi["components"]["schemas"]["Settled"];
    assert_eq!(names(&schema["properties"]), names(&serialised(&settled)));
    let event = &asyncapi["components"]["schemas"]["Event"]["properties"];
    assert_eq!(names(event), BTreeSet::from(["data".into(), "key".into()]));
}

#[test]
fn every_problem_is_named() {
    let document = openapi();
    let kinds = [
        ProblemKind::InvalidJson,
        ProblemKind::BadRequest,
        ProblemKind::NotFound,
        ProblemKind::NotInProfile,
        ProblemKind::MethodNotAllowed { allow: "" },
        ProblemKind::RequestTimeout,
        ProblemKind::BodyTooLarge,
        ProblemKind::UnsupportedMediaType,
        ProblemKind::Unprocessable,
        ProblemKind::HeadTooLarge,
        ProblemKind::Internal,
        ProblemKind::DeviceFailed,
        ProblemKind::BrokerUnavailable,
        ProblemKind::Overloaded,
        ProblemKind::StoreUnavailable,
        ProblemKind::Draining,
        ProblemKind::HandlerTimeout,
        ProblemKind::DeviceTimeout,
        ProblemKind::ConfirmTimeout,
    ];
    let slugs = kinds.map(|kind| kind.slug().to_owned());
    let listed = &document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"];
    assert_eq!(strings(listed), BTreeSet::from(slugs));
}

#[test]
fn the_limits_are_the_codes() {
    let schemas = &openapi()["components"]["schemas"];
    let query = &schemas["SeriesQuery"]["properties"];
    assert_eq!(query["fields"]["maxItems"], limits::QUERY_FIELDS_MAX);
    assert_eq!(query["limit"]["maximum"], limits::QUERY_POINTS_MAX);
    assert_eq!(query["limit"]["default"], limits::QUERY_POINTS_DEFAULT);
    let longest = &schemas["JobRequest"]["properties"]["duration_ms"]["maximum"];
    let longest = longest.as_u64().expect("a number");
    assert_eq!(u128::from(longest), limits::JOB_DURATION_MAX.as_millis());
    let page = &openapi()["components"]["parameters"]["limit"]["schema"];
    assert_eq!(page["maximum"], limits::PAGE_MAX);
    assert_eq!(page["default"], limits::PAGE_DEFAULT);
    let outcomes = &asyncapi()["components"]["schemas"]["Settled"]["properties"]["outcome"]["enum"];
    // A transient failure is not answered: it is not the end.
    let settled = [Settlement::Ok, Settlement::Duplicate, Settlement::Invalid];
    let settled = settled.map(|it| it.as_str().to_owned());
    assert_eq!(strings(outcomes), BTreeSet::from(settled));
}

#[test]
fn asyncapi_declares_the_objects_that_the_code_declares() {
    let document = asyncapi();
    let channels = document["channels"].as_object().expect("channels").values();
    let bindings: Vec<&Value> = channels.map(|it| &it["bindings"]["amqp"]).collect();
    let exchanges = bindings
        .iter()
        .filter_map(|it| it["exchange"]["name"].as_str());
    let exchanges: BTreeSet<&str> = exchanges.collect();
    assert_eq!(exchanges, BTreeSet::from(amqp::EXCHANGES));

    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        for queue in amqp::queues(queue_type) {
            let mut channels = document["channels"].as_object().expect("channels").values();
            let channel =
                channels.find(|channel| channel["bindings"]["amqp"]["queue"]["name"] == queue.name);
            let channel = channel.expect(queue.name);
            assert_eq!(channel["x-bound-to"], queue.bound_to);
            let arguments = queue.arguments.iter().map(|(name, value)| {
                let value = match value {
                    ArgumentValue::Text(text) => json!(text),
                    ArgumentValue::Number(number) => json!(number),
                };
                ((*name).to_owned(), value)
            });
            let declared = &channel["x-arguments"][queue_type.as_str()];
            assert_eq!(declared, &Value::Object(arguments.collect()));
        }
    }
    let messages = &document["components"]["messages"];
    assert_eq!(
        messages["Event"]["x-properties"]["delivery_mode"],
        amqp::PERSISTENT
    );
    for name in ["State", "Settled"] {
        assert_eq!(
            messages[name]["x-properties"]["delivery_mode"],
            amqp::TRANSIENT
        );
    }
    assert_eq!(
        names(&messages["Event"]["headers"]["properties"]),
        BTreeSet::from([amqp::HEADER_SENT_NS.into(), amqp::HEADER_SEQ.into()])
    );
}
