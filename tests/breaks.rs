//! The simulator can fail: each rule, broken on purpose, is noticed within 200 seeds.

#![allow(clippy::unwrap_used, clippy::panic)]

use baton::broken::{Rule, break_rule};
use baton::sim::hunt::Hunt;
use baton::sim::run::{STEPS, Setup};

const SEEDS: u64 = 200;

/// `near`: a seed that has noticed it, so that the test takes no longer than it must.
fn is_noticed(rule: Rule, near: u64) {
    break_rule(Some(rule));
    let findings = Hunt { first: Setup { seed: near, members: None, steps: STEPS }, runs: SEEDS }.run().unwrap();
    break_rule(None);
    match findings.failure {
        Some(failure) => println!("{}: seed {}: {}", rule.name(), failure.setup.seed, failure.violation.what),
        None => panic!("{} was broken, and nothing noticed it in {SEEDS} runs", rule.name()),
    }
}

macro_rules! each {
    ($($test:ident: $rule:ident, $near:literal;)+) => {
        $(#[test]
        fn $test() {
            is_noticed(Rule::$rule, $near);
        })+

        #[test]
        fn every_rule_has_a_test() {
            assert_eq!(Rule::ALL, [$(Rule::$rule,)+]);
        }
    };
}

each! {
    ownership: Ownership, 1;
    egress: Egress, 1;
    lost_stays_lost: LostStaysLost, 1;
    half_open_cleared: HalfOpenCleared, 1;
    answer_recorded: AnswerRecorded, 1;
    answers_recorded: AnswersRecorded, 21;
    syn_alters_nothing: SynAltersNothing, 1;
    passive_drops: PassiveDrops, 1;
    passive_remembers: PassiveRemembers, 1;
    replay_asks: ReplayAsks, 1;
    owners_asked: OwnersAsked, 119;
    refusal_held: RefusalHeld, 93;
    socket_ends: SocketEnds, 4;
    entry_ends: EntryEnds, 1;
    reset_noticed: ResetNoticed, 1;
    rebuild: Rebuild, 2;
    own_source: OwnSource, 1;
    tie: Tie, 40;
    make_before_break: MakeBeforeBreak, 3;
}
