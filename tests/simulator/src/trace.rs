//! The last steps of a run, in words.

use crate::oracle::Moment;
use std::collections::VecDeque;

/// How many steps a failing run shows.
const STEPS: usize = 120;

/// The steps, where anybody wants to read them: they cost more than the run itself.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<VecDeque<String>>);

impl Trace {
    /// One that keeps the last steps.
    #[must_use]
    pub const fn kept() -> Self {
        Self(Some(VecDeque::new()))
    }

    /// Takes note of a step.
    pub fn note(&mut self, at: Moment, step: impl FnOnce() -> String) {
        let Some(steps) = &mut self.0 else { return };
        if steps.len() == STEPS {
            steps.pop_front();
        }
        steps.push_back(format!("{:>6} {:>17} ns  {}", at.step, at.now, step()));
    }

    /// The steps, one a line.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.iter().flatten().fold(String::new(), |text, step| text + step + "\n")
    }
}
