//! Prometheus' rules for names and labels, as far as ours use them: each looks at the name alone, has to match the whole of it,
//! and replaces one label, or the name.

use regex::Regex;
use std::collections::BTreeMap;
use std::path::Path;

/// A name and its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series {
    name: String,
    labels: BTreeMap<String, String>,
}

/// What is left of a text in a name of Prometheus.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

impl Series {
    /// Of our own names.
    pub(crate) fn of_tags(text: &str) -> Self {
        let mut parts = text.split(';');
        let name = parts.next().unwrap().to_owned();
        let labels = parts.map(|part| part.split_once('=').expect("a label"));
        Self { name, labels: labels.map(|(label, value)| (label.to_owned(), value.to_owned())).collect() }
    }

    /// Of a line of a scrape; no value of ours has a comma in it, or a quote.
    pub(crate) fn of_exposition(line: &str) -> Self {
        let (name, rest) = line.split_once('{').expect("labels");
        let (labels, _) = rest.rsplit_once('}').expect("an end of them");
        let labels = labels.split(',').filter_map(|part| part.split_once('='));
        let labels = labels.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned()));
        Self { name: name.to_owned(), labels: labels.collect() }
    }

    /// A histogram is scraped as two series, beside its buckets.
    pub(crate) fn scraped(self) -> Vec<Self> {
        if !self.name.ends_with("_milliseconds") {
            return vec![self];
        }
        let with = |suffix: &str| Self { name: format!("{}_{suffix}", self.name), ..self.clone() };
        vec![with("sum"), with("count")]
    }

    /// With underscores for what is neither a letter nor a digit.
    pub(crate) fn with_plain_values(self) -> Self {
        let labels = self.labels.into_iter().map(|(label, value)| (label, plain(&value)));
        Self { labels: labels.collect(), name: self.name }
    }

    /// As Envoy shows it that was not told of our labels.
    pub(crate) fn unlabelled(self) -> Self {
        // In the order in which our names have them.
        let order = [
            "policy",
            "namespace",
            "operation",
            "outcome",
            "slow",
            "reason",
            "class",
            "source",
            "key",
            "to",
            "cause",
            "decision",
            "kind",
        ];
        let (name, suffix) = match self.name.rsplit_once("_milliseconds") {
            Some((name, suffix)) if suffix != "_total" => (format!("{name}_milliseconds"), suffix.to_owned()),
            _ => (self.name.clone(), String::new()),
        };
        let labels =
            order.iter().filter_map(|label| Some(format!("_{label}_{}", plain(self.labels.get(*label)?))));
        let name = [name].into_iter().chain(labels).chain([suffix]).collect();
        Self { name, labels: BTreeMap::new() }
    }
}

struct Rule {
    regex: Regex,
    target: String,
    replacement: String,
}

/// The rules of a file.
pub(crate) struct Relabel(Vec<Rule>);

impl Relabel {
    /// Reads the one shape in which they are written here: a key in each line.
    pub(crate) fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        let (_, rules) = text.split_once("\nmetric_relabel_configs:\n").expect("rules");
        let rule = |rule: &str| {
            let mut keys: BTreeMap<&str, &str> =
                rule.lines().map(|line| line.trim().split_once(": ").expect("a key")).collect();
            let mut take = |key: &str| {
                keys.remove(key).unwrap_or_else(|| panic!("no {key} in {rule}")).trim_matches('\'').to_owned()
            };
            assert_eq!(take("source_labels"), "[__name__]");
            let rule = Rule {
                regex: Regex::new(&format!("^(?:{})$", take("regex"))).unwrap(),
                target: take("target_label"),
                replacement: take("replacement"),
            };
            assert!(keys.is_empty(), "{keys:?}");
            rule
        };
        Self(rules.split("- ").skip(1).map(rule).collect())
    }

    pub(crate) fn apply(&self, mut series: Series) -> Series {
        for rule in &self.0 {
            let Some(found) = rule.regex.captures(&series.name) else { continue };
            let mut value = String::new();
            found.expand(&rule.replacement, &mut value);
            if rule.target == "__name__" {
                series.name = value;
            } else {
                series.labels.insert(rule.target.clone(), value);
            }
        }
        series
    }
}
