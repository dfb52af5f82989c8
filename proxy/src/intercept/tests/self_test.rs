use crate::intercept::probes::Probes;
use crate::intercept::rules::Family;
use crate::intercept::standing::{Course, Outcome, Standing};

fn families(v4: Outcome, v6: Outcome) -> [(Family, Outcome); 2] {
    [(Family::V4, v4), (Family::V6, v6)]
}

fn failed() -> Outcome {
    Outcome::Failed("ipv6: rule x is missing".to_owned())
}

#[test]
fn nothing_counts_before_a_test_has_passed() {
    let mut course = Course::default();
    for _ in 0..9 {
        let standing = course.after(&families(Outcome::Passed, failed()), true);
        assert_eq!(standing, Standing::Waiting("ipv6: rule x is missing".to_owned()));
    }
    let absent = families(Outcome::Absent, Outcome::Absent);
    assert!(
        matches!(course.after(&absent, false), Standing::Waiting(why) if why.contains("15022"))
    );
    assert_eq!(course.after(&absent, true), Standing::Passed);
}

#[test]
fn three_failures_in_a_row_mean_bypassed_and_one_success_ends_it() {
    let mut course = Course::default();
    let well = families(Outcome::Passed, Outcome::Absent);
    let badly = families(Outcome::Passed, failed());
    let why = "ipv6: rule x is missing".to_owned();
    assert_eq!(course.after(&well, false), Standing::Passed);
    for _ in 0..2 {
        for _ in 0..2 {
            assert_eq!(course.after(&badly, false), Standing::Wavering(why.clone()));
        }
        let bypassed = |first| Standing::Bypassed { why: why.clone(), first };
        assert_eq!(course.after(&badly, false), bypassed(true));
        assert_eq!(course.after(&badly, false), bypassed(false));
        assert_eq!(course.after(&well, false), Standing::Passed);
    }
}

#[test]
fn a_probe_is_known_by_its_port_and_family() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let probes = Probes::default();
        let sent = probes.expect("0.0.0.0:40000".parse().unwrap());
        probes.arrived("10.0.0.7:40001".parse().unwrap());
        probes.arrived("[fd00::7]:40000".parse().unwrap());
        probes.arrived("10.0.0.7:40000".parse().unwrap());
        assert_eq!(sent.arrival().await, "10.0.0.7:40000".parse().unwrap());
        drop(sent);
        probes.arrived("10.0.0.7:40000".parse().unwrap());
        let again = probes.expect("0.0.0.0:40000".parse().unwrap());
        let waits = tokio::select! {
            biased;
            _ = again.arrival() => false,
            () = std::future::ready(()) => true,
        };
        assert!(waits, "what came before it was sent is not it");
    });
}
