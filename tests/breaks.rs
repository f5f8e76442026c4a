//! The simulator can fail: each rule, broken on purpose, is noticed within 200 seeds.

#![allow(clippy::unwrap_used, clippy::panic)]

use baton::broken::{Rule, break_rule};
use baton::sim::hunt::Hunt;
use baton::sim::run::{STEPS, Setup};

const SEEDS: u64 = 200;

fn is_noticed(rule: Rule) {
    break_rule(Some(rule));
    let findings = Hunt { first: Setup { seed: 1, members: None, steps: STEPS }, runs: SEEDS }.run().unwrap();
    break_rule(None);
    match findings.failure {
        Some(failure) => println!("{}: seed {}: {}", rule.name(), failure.setup.seed, failure.violation.what),
        None => panic!("{} was broken, and nothing noticed it in {SEEDS} runs", rule.name()),
    }
}

macro_rules! each {
    ($($test:ident: $rule:ident,)+) => {
        $(#[test]
        fn $test() {
            is_noticed(Rule::$rule);
        })+

        #[test]
        fn every_rule_has_a_test() {
            assert_eq!(Rule::ALL, [$(Rule::$rule,)+]);
        }
    };
}

each! {
    ownership: Ownership,
    egress: Egress,
    lost_stays_lost: LostStaysLost,
    half_open_cleared: HalfOpenCleared,
    answer_recorded: AnswerRecorded,
    answers_recorded: AnswersRecorded,
    syn_alters_nothing: SynAltersNothing,
    passive_drops: PassiveDrops,
    passive_remembers: PassiveRemembers,
    replay_asks: ReplayAsks,
    owners_asked: OwnersAsked,
    refusal_held: RefusalHeld,
    socket_ends: SocketEnds,
    entry_ends: EntryEnds,
    reset_noticed: ResetNoticed,
    rebuild: Rebuild,
    own_source: OwnSource,
    tie: Tie,
    make_before_break: MakeBeforeBreak,
}
