use super::*;
use crate::record::OperationOutcome;

/// Answers each operation a fixed time after it was sent, without any socket.
struct Fake {
    delay_ns: u64,
    waiting: Vec<(u64, u64, u64)>,
}

impl LoadTarget for Fake {
    fn kind(&self) -> Kind {
        Kind::Rest
    }

    fn submit(&mut self, seq: u64, intended_ns: u64, clock: Clock, seen: &mut Vec<Observation>) {
        let sent_ns = clock.now_ns();
        self.waiting.push((seq, intended_ns, sent_ns));
        seen.push(Observation::Sent {
            kind: Kind::Rest,
            intended_ns,
            ready_ns: sent_ns,
            sent_ns,
        });
    }

    fn ready(&mut self, _: u32, _: Clock, _: &mut Vec<Observation>) {}

    fn expire(&mut self, clock: Clock, seen: &mut Vec<Observation>) {
        let now_ns = clock.now_ns();
        let delay_ns = self.delay_ns;
        self.waiting.retain(|&(seq, intended_ns, sent_ns)| {
            let done_ns = sent_ns + delay_ns;
            if done_ns > now_ns {
                return true;
            }
            let operation = Operation {
                seq,
                kind: Kind::Rest,
                intended_ns,
                sent_ns,
                done_ns,
                outcome: OperationOutcome::Ok,
                bytes: 0,
            };
            seen.push(Observation::Done {
                operation,
                sent: true,
            });
            false
        });
    }

    fn pending(&self) -> usize {
        self.waiting.len()
    }
}

fn run(stream: Stream, abort: bool) -> crate::load::recorder::Recorded {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll exists");
    let window = Window {
        start_ns: 20_000_000,
        end_ns: 120_000_000,
    };
    let mut engine = Engine {
        poll: &poll,
        streams: &mut [stream],
        window,
        timeout_ns: 1_000_000_000,
        abort: &AtomicBool::new(abort),
        recorder: Recorder::new(window),
        clock: Clock::new(Instant::now()),
        meter: Meter::default(),
        alarm: Alarm::default(),
        read_ns: 0,
        events: Vec::with_capacity(EVENTS),
    };
    engine.run().expect("epoll works");
    engine.recorder.finish()
}

fn fake() -> Box<Fake> {
    Box::new(Fake {
        delay_ns: 3_000_000,
        waiting: vec![],
    })
}

fn constant() -> Arrival {
    Arrival::Constant {
        rate_per_s: 1_000.0,
        phase: 0.0,
    }
}

#[test]
fn every_planned_operation_is_sent_once_and_its_delay_recovered() {
    let recorded = run(Stream::open(fake(), constant()), false);
    let counts = &recorded.counts[&Kind::Rest];
    assert_eq!((counts.planned, counts.issued, counts.ok), (100, 100, 100));
    let service = &recorded.histograms["rest.service"];
    assert!((2_990_000..3_010_000).contains(&service.value_at_quantile(0.5)));
    // L = λW: 1,000 per second times 3 ms.
    assert!((recorded.mean_in_flight - 3.0).abs() < 0.06);
}

#[test]
fn an_aborted_run_counts_what_it_did_not_send() {
    let recorded = run(Stream::open(fake(), constant()), true);
    let counts = &recorded.counts[&Kind::Rest];
    assert_eq!(
        (counts.planned, counts.issued, counts.not_sent),
        (100, 0, 100)
    );
}

#[test]
fn a_closed_loop_keeps_its_connections_busy_and_no_more() {
    let recorded = run(Stream::closed(fake(), 4), false);
    assert!(recorded.max_in_flight <= 4);
    // The fake answers only when the loop looks at its deadlines: a few rounds at least.
    assert!(recorded.counts[&Kind::Rest].ok > 4);
}
