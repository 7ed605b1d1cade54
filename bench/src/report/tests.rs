//! What every form of the report must hold.

use super::*;
use crate::analyse::{analyse, synthetic};
use crate::record::{Kind, Ladder, SearchFacts};

fn render(run: &RunData) -> (Summary, Vec<String>) {
    let summary = analyse(run);
    let texts = exporters().map(|e| e.render(run, &summary)).to_vec();
    (summary, texts)
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    let run = synthetic::run(3);
    let (first, texts) = render(&run);
    let (second, again) = render(&run.clone());
    assert_eq!(summary_json(&first), summary_json(&second));
    assert_eq!(texts, again);
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let (_, texts) = render(&synthetic::run(3));
    let page = &texts[1];
    for foreign in ["http:", "https:", "<script", "@import", "url(", "src="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf\""));
}

#[test]
fn every_figure_names_its_layout() {
    let (_, texts) = render(&synthetic::run(3));
    let captions = texts[1].matches("<figcaption>").count();
    let mut rest = texts[1].split("<figcaption>");
    rest.next();
    assert!(captions > 20, "{captions}");
    assert!(rest.all(|c| {
        c.split("</figcaption>")
            .next()
            .is_some_and(|c| c.contains("isolated layout"))
    }));
}

#[test]
fn an_empty_run_still_has_a_marked_report() {
    let mut run = synthetic::run(3);
    run.launches.clear();
    run.manifest.interrupted = true;
    for text in render(&run).1 {
        assert!(text.contains("PARTIAL: the run was interrupted"));
        assert!(
            text.contains("Never launched here: asynchronous, multi-process and multi-thread.")
        );
    }
}

#[test]
fn a_run_without_cells_or_subjects_does_not_panic() {
    let mut run = synthetic::run(1);
    run.launches.truncate(2);
    run.manifest.cells.clear();
    run.manifest.subjects.clear();
    run.manifest.order.clear();
    for text in render(&run).1 {
        assert!(text.contains("the run has no cell under steady load"));
    }
}

#[test]
fn names_from_outside_cannot_break_the_page() {
    let mut run = synthetic::run(3);
    run.manifest.subjects[0].title = "<b>&\"".into();
    run.launches[0].launch.faults = vec!["</td><script>".into()];
    let page = &render(&run).1[1];
    assert!(!page.contains("<script>") && !page.contains("<b>&"));
    assert!(page.contains("&lt;b&gt;&amp;&quot;"));
}

#[test]
fn an_invalid_launch_is_listed_with_its_gate_and_its_raw_data() {
    let mut run = synthetic::run(3);
    run.launches[3].launch.faults = vec!["subject died".into()];
    let folder = run.launches[3].launch.folder();
    for text in render(&run).1 {
        assert!(text.contains("faults: 1 (= 0) [subject died]"));
        assert!(text.contains(&folder));
        assert!(text.contains("71 of 72 launches valid, 0 disturbed, 1 invalid; 72 planned"));
    }
}

#[test]
fn the_answer_replaces_what_stands_between_the_markers() {
    let summary = analyse(&synthetic::run(3));
    let readme = format!("# A\n\n{ANSWER_BEGIN}\nstale\n{ANSWER_END}\n\nend\n");
    let new = with_answer(&readme, &summary).expect("markers");
    assert!(new.starts_with("# A\n\n<!-- answer:begin -->\nChoose asynchronous: "));
    assert!(new.ends_with("<!-- answer:end -->\n\nend\n") && !new.contains("stale"));
    assert_eq!(with_answer(&new, &summary).as_deref(), Some(&*new));
    assert_eq!(with_answer("no markers", &summary), None);
}

#[test]
fn every_objective_stands_with_its_figure_threshold_and_verdict() {
    let mut run = synthetic::run(3);
    let (summary, texts) = render(&run);
    assert!(objectives::text(&summary).is_empty());
    assert!(!texts[0].contains("Objectives"));
    let demands = ["steady-mixed:cpu_per_op=60us", "idle:rest.p99=1s"];
    run.manifest.objectives = demands.map(str::to_owned).to_vec();
    let (summary, texts) = render(&run);
    let lines = objectives::text(&summary);
    assert!(
        lines.contains("steady-mixed:cpu_per_op=60us: missed\n"),
        "{lines}"
    );
    assert!(
        lines.contains("missed    steady-mixed multi-process: 8"),
        "{lines}"
    );
    assert!(lines.contains("(≤ 60.0 µs)"), "{lines}");
    assert!(lines.contains("idle:rest.p99=1s: not held"), "{lines}");
    for text in texts {
        assert!(text.contains("Objectives") && text.contains("no figure"));
    }
}

/// A run with a search, in which the rungs of one scenario are a ladder.
fn searched(ladder: Ladder) -> RunData {
    let mut run = synthetic::run(3);
    run.manifest.search = Some(SearchFacts::for_tests());
    for (cell, connections) in run.manifest.cells.iter_mut().zip([0, 0, 0, 16, 256, 1024]) {
        cell.ladder = (connections > 0).then_some(ladder);
        cell.connections = Some(connections);
    }
    let mut probes = Vec::new();
    for (ordinal, rate) in (900..).zip([500.0, 1_000.0]) {
        let mut data = synthetic::one_launch();
        data.launch.ordinal = ordinal;
        data.launch.cell = format!("capacity/rate={rate}");
        data.launch.arrival_rate_per_s = [(Kind::Rest, rate)].into();
        data.launch.generator.busy_ratio = if rate > 600.0 { 0.9 } else { 0.1 };
        let planned = data.launch.operations[&Kind::Rest].planned;
        data.launch.window_s = planned as f64 / rate;
        data.launch.generator.mean_in_flight = 0.0;
        probes.push(data);
    }
    run.launches.extend(probes);
    run
}

#[test]
fn a_search_is_told_with_its_probes_and_apart_from_the_launches() {
    let (summary, texts) = render(&searched(Ladder::Connections));
    let gates = tables::gates(&summary).rows;
    let busy = gates.iter().find(|row| row[0].text == "generator busy");
    assert_eq!(busy.expect("a gate")[4].text, "0");
    for text in texts {
        assert!(text.contains("void: the generator"));
        assert!(text.contains("≥ 500/s"));
        assert!(text.contains("p99 ≤ 50 ms, isolated layout"));
        assert!(
            text.contains("72 of 72 launches valid, 0 disturbed, 0 invalid; 72 planned; 2 probes")
        );
    }
}

#[test]
fn a_search_without_launches_counts_its_probes_only() {
    let mut run = searched(Ladder::Connections);
    run.launches.retain(|data| data.launch.ordinal >= 900);
    run.manifest.cells.clear();
    run.manifest.order.clear();
    let (_, texts) = render(&run);
    for text in texts {
        assert!(text.contains("2 probes, judged apart"), "{text}");
        assert!(text.contains("2 probes of the search are judged apart; the figures"));
        assert!(!text.contains("launches valid") && !text.contains("Furthest out"));
    }
}

#[test]
fn where_the_threads_ran_stands_in_the_report() {
    let mut run = synthetic::run(3);
    let heading = "Where the threads ran";
    assert!(render(&run).1.iter().all(|text| text.contains(heading)));
    let table = |run: &RunData| pinning::table(run, &analyse(run)).expect("they were looked at");
    let row = |table: &document::Table, who: &str| -> Vec<String> {
        let found = table
            .rows
            .iter()
            .find(|row| row[0].text == who)
            .expect("a row");
        found.iter().map(|cell| cell.text.clone()).collect()
    };
    let generator = row(&table(&run), "the generator");
    assert_eq!(generator[1..], ["isolated", "cpu1", "72", "3", "0", "0"]);
    for (number, data) in (0..).zip(&mut run.launches) {
        let pinning = data.launch.pinning.as_mut().expect("looked at");
        pinning.subject.migrations = (number > 0).then_some(2);
    }
    let subject = run.launches[0].launch.subject.clone();
    let title = run.manifest.subjects.iter().find(|it| it.name == subject);
    let subject = row(&table(&run), &title.expect("a subject").title);
    assert_eq!(subject[6], "the kernel does not tell");
    run.launches
        .iter_mut()
        .for_each(|data| data.launch.pinning = None);
    assert!(render(&run).1.iter().all(|text| !text.contains(heading)));
}

#[test]
fn a_run_that_only_searched_answers_with_capacities() {
    let mut run = searched(Ladder::Connections);
    run.launches.retain(|data| data.launch.ordinal >= 900);
    run.manifest.cells.clear();
    run.manifest.order.clear();
    let [first, _, trust] = answer::answer(&analyse(&run));
    let expected = "Capacity: with p99 ≤ 50 ms in the isolated layout REST answers asynchronous ≥ 500/s, \
                    multi-process at a rate not yet known and multi-thread at a rate not yet known.";
    assert_eq!(first, expected);
    assert!(trust.contains("and the isolated layout"), "{trust}");
    assert!(
        trust.contains("2 probes of the search are judged apart")
            && !trust.contains("blocks are few"),
        "{trust}"
    );
}

#[test]
fn ladders_have_a_table_and_figures() {
    for (ladder, head, axis) in [
        (
            Ladder::Connections,
            "PSS [bytes/connection]",
            "open connections",
        ),
        (
            Ladder::InFlight,
            "Page tables [bytes/operation]",
            "operations in flight",
        ),
        (
            Ladder::Rate,
            "System CPU per operation",
            "offered requests per second",
        ),
    ] {
        let texts = render(&searched(ladder)).1;
        assert!(texts.iter().all(|text| text.contains(head)), "{head}");
        assert!(texts[1].contains(axis), "{axis}");
    }
}

#[test]
fn a_subject_without_a_steady_state_stands_there_without_a_number() {
    let mut run = synthetic::run(3);
    let here = |it: &&mut crate::analyse::LaunchData| {
        it.launch.subject == "async" && it.launch.cell == "steady-mixed"
    };
    for data in run.launches.iter_mut().filter(here).take(2) {
        let slices = data.slices.get_mut("rest.response").expect("kept");
        for (slice, factor) in slices.iter_mut().zip(10..) {
            slice.median_ns *= factor;
        }
    }
    for text in render(&run).1 {
        assert!(text.contains("no steady state in 2 launches"));
    }
}

#[test]
fn a_noise_floor_is_drawn_as_a_band_with_a_legend_and_only_where_there_is_one() {
    let run = synthetic::run(3);
    let mut summary = analyse(&run);
    let page = |summary: &Summary| exporters()[1].render(&run, summary);
    assert!(!page(&summary).contains("class=\"floor\""));
    let cell = summary
        .cells
        .iter_mut()
        .find(|cell| cell.facts.cell == "steady-mixed");
    let pss = cell.expect("the run has it").metrics.iter_mut();
    let pss = pss
        .into_iter()
        .find(|it| it.metric == crate::analyse::metric::Metric::Pss);
    let pss = pss.expect("metric");
    pss.floor = pss.ratio("async", "multi-thread");
    let page = page(&summary);
    // The legend's sample and the band itself.
    assert_eq!(page.matches("class=\"floor\"").count(), 2);
    assert!(page.contains("Grey band: the noise floor around the best median"));
}

#[test]
fn the_ceiling_of_the_generator_and_the_adjusted_p_values_are_printed() {
    let mut run = synthetic::run(3);
    for text in render(&run).1 {
        assert!(text.contains("30,000 REST requests/s (isolated)"));
        assert!(text.contains("; p < 0.001") || text.contains("; p 0.0"));
    }
    run.manifest.ceiling_per_s.clear();
    assert!(render(&run).1[1].contains("not measured"));
}
