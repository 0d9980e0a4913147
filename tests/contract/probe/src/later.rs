//! Commands that run outside of the request that gave them: from a queue, at a tick, at the end of a stream.
//!
//! They are set off by `&`, the first word is `as=<case>` (with a space or a comma behind it), and what they say is logged under that case: one field,
//! with `|` between the answers.

use crate::{commands, vm};
use resilience_host::calls::{self, Level};

/// Runs them in the callback `place` of the context `id`, which belongs to `root`.
pub(crate) fn run(place: &str, id: u32, root: u32, text: &str) {
    let (label, commands) = text.split_once([' ', ',']).expect("a name and commands");
    let case = label.strip_prefix("as=").expect("the name of a case");
    let said: Vec<String> =
        commands.split('&').map(|command| commands::from_elsewhere(id, command.trim())).collect();
    let (plugin, number) =
        vm::with(|vm| (vm.roots.get(&root).cloned().unwrap_or_default(), vm.number.to_string()));
    let line = [
        ("plugin", plugin.as_str()),
        ("case", case),
        ("event", place),
        ("vm", &number),
        ("said", &said.join("|")),
    ];
    let line: Vec<String> = line.iter().map(|(key, value)| format!("{key}={value}")).collect();
    calls::log(Level::Info, &format!("probe\t{}", line.join("\t")));
}

/// At a tick of a root: what was left for its plugin.
pub(crate) fn tick(root: u32) {
    let due = vm::with(|vm| {
        let plugin = vm.roots.get(&root).cloned().unwrap_or_default();
        let (due, later) = std::mem::take(&mut vm.at_tick).into_iter().partition(|(of, _)| *of == plugin);
        vm.at_tick = later;
        let due: Vec<(String, String)> = due;
        due
    });
    for (_, commands) in due {
        run("tick", root, root, &commands);
    }
}

/// At the end of a stream: what it left for this callback.
pub(crate) fn end(event: &str, id: u32) {
    let left = vm::with(|vm| {
        let stream = vm.streams.get_mut(&id)?;
        Some((stream.root, stream.at_end.remove(event)?))
    });
    if let Some((root, commands)) = left {
        run(event, id, root, &commands);
    }
}
