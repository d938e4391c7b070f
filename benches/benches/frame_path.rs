//! The path of a 20 ms frame, both directions, every format, and a whole turn: time and allocations.

use benches::{AssistantToCaller, CallerToAssistant, Counting, FORMATS, TURN_BUDGET, Turn, allocations_per_round};
use criterion::{Criterion, criterion_group, criterion_main};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn frame_path(c: &mut Criterion) {
    for (name, format) in FORMATS {
        let label = if name == "passthrough" { "passthrough".to_owned() } else { format!("8k→{name}") };
        let mut path = CallerToAssistant::new(format);
        let allocations = allocations_per_round(10_000, || _ = path.frame());
        println!("caller_to_assistant/{label}: {allocations} allocations per frame");
        c.bench_function(&format!("caller_to_assistant/{label}"), |b| b.iter(|| path.frame()));
        let label = if name == "passthrough" { "passthrough".to_owned() } else { format!("{name}→8k") };
        let mut path = AssistantToCaller::new(format);
        let allocations = allocations_per_round(10_000, || _ = path.frame());
        println!("assistant_to_caller/{label}: {allocations} allocations per frame");
        c.bench_function(&format!("assistant_to_caller/{label}"), |b| b.iter(|| path.frame()));
    }
}

fn turn(c: &mut Criterion) {
    let mut path = Turn::default();
    println!("turn: {:?} of {TURN_BUDGET:?} from its end to the first frame, the provider's time included", path.turn());
    c.bench_function("turn", |b| b.iter(|| path.turn()));
}

criterion_group!(benches, frame_path, turn);
criterion_main!(benches);
