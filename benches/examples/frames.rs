//! So many frames one way, for tools that count instructions: `frames up|down passthrough|16k|24k N`.

use benches::{AssistantToCaller, CallerToAssistant, FORMATS};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, way, format, frames] = &arguments[..] else { panic!("expected: up|down passthrough|16k|24k N") };
    let format = FORMATS.iter().find(|it| it.0 == format).expect("a format").1;
    let frames: u64 = frames.parse().expect("a number of frames");
    if way == "up" {
        let mut path = CallerToAssistant::new(format);
        (0..frames).for_each(|_| assert!(path.frame() > 0));
    } else {
        let mut path = AssistantToCaller::new(format);
        (0..frames).for_each(|_| _ = path.frame());
    }
}
