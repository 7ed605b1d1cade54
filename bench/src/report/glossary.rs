//! The words of a report, one meaning each.

/// Terms with their meanings, in the order in which a reader meets them.
pub fn terms() -> Vec<(String, String)> {
    TERMS
        .iter()
        .map(|(term, meaning)| ((*term).to_owned(), (*meaning).to_owned()))
        .collect()
}

const TERMS: [(&str, &str); 24] = [
    (
        "subject",
        "one service under test; here one per concurrency model.",
    ),
    (
        "cell",
        "a scenario with one value of its axis, such as io-wait/pool=16.",
    ),
    (
        "launch",
        "one fresh start of one subject in one cell: the unit of replication.",
    ),
    (
        "block",
        "every subject once in every cell, in an order from a Williams square, so that each stands everywhere and follows each other one equally often; subjects are compared within a block.",
    ),
    (
        "noise floor",
        "what a subject differs from itself by when it is measured under two names (an A/A comparison); a difference that does not exceed it is none.",
    ),
    ("layout", "who may use which core."),
    (
        "open loop",
        "sends follow a schedule fixed before the run and do not wait for answers.",
    ),
    (
        "closed loop",
        "every connection sends as soon as it was answered: good for a ceiling only, as it hides slow answers.",
    ),
    (
        "response time",
        "end of the answer minus intended send: it contains the wait that a stall causes to all that queue behind it.",
    ),
    (
        "capacity",
        "the highest rate at which the quantile of the response time is within the objective and every gate held; found by probes, each a launch of its own.",
    ),
    (
        "saturation",
        "the lowest probed rate at which the goodput, right answers in time, was below 97 % of what was offered.",
    ),
    ("service time", "end of the answer minus actual send."),
    (
        "send lag",
        "actual send minus intended send: the generator's own lateness.",
    ),
    (
        "AMQP response",
        "an event published with reply_to, until the reply that its effect is visible was received.",
    ),
    (
        "p50, p95, p99",
        "quantiles per launch, then the median over blocks; printed only if 100 operations of the launch lie beyond. \"Pooled\" is the quantile of all valid launches together, where one launch has too few operations.",
    ),
    (
        "CPU per operation",
        "on-CPU time of the subject's whole process tree, divided by the completed operations of both protocols.",
    ),
    (
        "growth of PSS",
        "slope of the summed PSS over the window (Theil–Sen over 60 parts), only for windows of five minutes or more.",
    ),
    (
        "switches",
        "voluntary context switches of all threads: how often one waited.",
    ),
    (
        "PSS, USS, RSS",
        "proportional, unique and resident memory, summed over the process tree; PSS counts a shared page once, RSS in every process.",
    ),
    (
        "95 % interval",
        "bootstrap over blocks (10,000 resamples); for ratios widened to Student's t. Each interval stands for itself: of many, one in twenty misses.",
    ),
    (
        "winner",
        "better than every other subject with an interval of the ratio that excludes 1 and an adjusted p value of at most 5 %, by at least 2 % and over at least three blocks; else \"no difference shown\", which is not \"equal\".",
    ),
    (
        "adjusted p value",
        "how often chance alone would show as much, times the comparisons of the cell that it is one of (Holm 1979): up to 5 %, the chance of even one false winner in the cell is at most that.",
    ),
    (
        "steady state",
        "response times, CPU and PSS keep their level over the window; a launch that warms up, slows down or never settles in it is invalid (where only PSS moves, only its memory figures are), and a subject with two launches in a cell in which a figure never settles does not have that figure there.",
    ),
    (
        "valid, disturbed, invalid",
        "every gate held; the host was noisy; the figures mean nothing. Only valid launches count.",
    ),
];
