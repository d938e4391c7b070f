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

/// A frame each way of many calls in turn, as a server has them: what the calls before have driven out of the caches.
fn in_turn(c: &mut Criterion) {
    let (_, format) = FORMATS[0];
    for calls in [1, 600] {
        let mut paths: Vec<_> = (0..calls).map(|_| (CallerToAssistant::new(format), AssistantToCaller::new(format))).collect();
        let mut next = 0;
        c.bench_function(&format!("in_turn/{calls} calls"), |b| {
            b.iter(|| {
                let (up, down) = &mut paths[next];
                next = (next + 1) % calls;
                up.frame() + down.frame()
            });
        });
    }
}

fn turn(c: &mut Criterion) {
    let mut path = Turn::default();
    println!("turn: {:?} of {TURN_BUDGET:?} from its end to the first frame, the provider's time included", path.turn());
    c.bench_function("turn", |b| b.iter(|| path.turn()));
}

criterion_group!(benches, frame_path, in_turn, turn);
criterion_main!(benches);
