//! What the benchmarks show without a clock.

use benches::{AssistantToCaller, CallerToAssistant, Counting, FORMATS, TURN_BUDGET, Turn, allocations_per_round};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_frame_allocates_nothing_in_either_direction() {
    for (name, format) in FORMATS {
        let mut up = CallerToAssistant::new(format);
        let mut down = AssistantToCaller::new(format);
        assert_eq!(allocations_per_round(5000, || assert!(up.frame() > 200)), 0.0, "caller → assistant, {name}");
        assert_eq!(allocations_per_round(5000, || _ = down.frame()), 0.0, "assistant → caller, {name}");
    }
}

#[test]
fn an_answer_is_handed_over_within_the_budget_of_a_turn() {
    let mut path = Turn::default();
    for _ in 0..20 {
        let took = path.turn();
        assert!(took <= TURN_BUDGET, "{took:?}");
    }
}
