//! What the module asked of the host.

use std::fmt;

/// What a host call costs and does, as the budget counts it.
///
/// Reads that bring bytes are a kind of their own because they cost about ten times as much as anything else: the host
/// calls back into the module to allocate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A header, property, shared value, queue entry or buffer that arrived as bytes.
    ReadBytes,
    /// The same, and there was nothing, or an error.
    ReadNothing,
    /// `proxy_set_shared_data`, whether it won or not.
    SharedWrite,
    /// `proxy_increment_metric`.
    MetricIncrement,
    /// `proxy_record_metric`.
    MetricRecord,
    /// `proxy_get_metric`.
    MetricRead,
    /// A header added, replaced or removed.
    HeaderWrite,
    /// `proxy_set_property`.
    PropertyWrite,
    /// Monotonic or wall time.
    Clock,
    /// `proxy_send_local_response`.
    LocalReply,
    /// A log line.
    Log,
    /// Everything else: queues, timers, metric definitions, what WASI brings.
    Other,
}

/// One host call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The import's name, without its module.
    pub function: String,
    /// The key, path, header, metric or message it was about.
    pub argument: Vec<u8>,
    /// How many bytes the host handed over; `None` where it handed over none.
    pub bytes: Option<usize>,
    /// What the host answered (a WASI errno for WASI functions).
    pub status: u32,
    /// The export during which it was made.
    pub callback: String,
    /// The context that the export ran for.
    pub context: u32,
    /// True where the answer was this host's invention, not what the module deserved.
    pub injected: bool,
}

impl Call {
    /// How the budget counts it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.function.as_str() {
            "proxy_get_property"
            | "proxy_get_header_map_value"
            | "proxy_get_header_map_pairs"
            | "proxy_get_shared_data"
            | "proxy_dequeue_shared_queue"
            | "proxy_get_buffer_bytes" => {
                if self.bytes.is_some() {
                    Kind::ReadBytes
                } else {
                    Kind::ReadNothing
                }
            }
            "proxy_set_shared_data" => Kind::SharedWrite,
            "proxy_increment_metric" => Kind::MetricIncrement,
            "proxy_record_metric" => Kind::MetricRecord,
            "proxy_get_metric" => Kind::MetricRead,
            "proxy_add_header_map_value"
            | "proxy_replace_header_map_value"
            | "proxy_remove_header_map_value"
            | "proxy_set_header_map_pairs" => Kind::HeaderWrite,
            "proxy_set_property" => Kind::PropertyWrite,
            "clock_time_get" | "proxy_get_current_time_nanoseconds" => Kind::Clock,
            "proxy_send_local_response" => Kind::LocalReply,
            "proxy_log" => Kind::Log,
            _ => Kind::Other,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let argument = String::from_utf8_lossy(&self.argument).replace('\0', ".");
        write!(f, "{}[{}] {}({argument:.80})", self.callback, self.context, self.function)?;
        match (self.status, self.bytes) {
            (0, Some(bytes)) => write!(f, " = {bytes} bytes")?,
            (0, None) => {}
            (status, _) => write!(f, " = status {status}")?,
        }
        if self.injected { write!(f, " (injected)") } else { Ok(()) }
    }
}

/// How many calls of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// [`Kind::ReadBytes`]
    pub reads_with_bytes: usize,
    /// [`Kind::ReadNothing`]
    pub reads_of_nothing: usize,
    /// [`Kind::SharedWrite`]
    pub shared_writes: usize,
    /// [`Kind::MetricIncrement`]
    pub metric_increments: usize,
    /// [`Kind::MetricRecord`]
    pub metric_records: usize,
    /// [`Kind::MetricRead`]
    pub metric_reads: usize,
    /// [`Kind::HeaderWrite`]
    pub header_writes: usize,
    /// [`Kind::PropertyWrite`]
    pub property_writes: usize,
    /// [`Kind::Clock`]
    pub clock_reads: usize,
    /// [`Kind::LocalReply`]
    pub local_replies: usize,
    /// [`Kind::Log`]
    pub log_lines: usize,
    /// [`Kind::Other`]
    pub others: usize,
}

impl Counts {
    /// No call at all.
    pub const NONE: Self = Self {
        reads_with_bytes: 0,
        reads_of_nothing: 0,
        shared_writes: 0,
        metric_increments: 0,
        metric_records: 0,
        metric_reads: 0,
        header_writes: 0,
        property_writes: 0,
        clock_reads: 0,
        local_replies: 0,
        log_lines: 0,
        others: 0,
    };

    /// Counts these.
    #[must_use]
    pub fn of<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Self {
        let mut counts = Self::default();
        for call in calls {
            *match call.kind() {
                Kind::ReadBytes => &mut counts.reads_with_bytes,
                Kind::ReadNothing => &mut counts.reads_of_nothing,
                Kind::SharedWrite => &mut counts.shared_writes,
                Kind::MetricIncrement => &mut counts.metric_increments,
                Kind::MetricRecord => &mut counts.metric_records,
                Kind::MetricRead => &mut counts.metric_reads,
                Kind::HeaderWrite => &mut counts.header_writes,
                Kind::PropertyWrite => &mut counts.property_writes,
                Kind::Clock => &mut counts.clock_reads,
                Kind::LocalReply => &mut counts.local_replies,
                Kind::Log => &mut counts.log_lines,
                Kind::Other => &mut counts.others,
            } += 1;
        }
        counts
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> usize {
        self.rows().iter().map(|(_, count)| count).sum()
    }

    fn rows(&self) -> [(&'static str, usize); 12] {
        [
            ("reads that return bytes", self.reads_with_bytes),
            ("reads that find nothing", self.reads_of_nothing),
            ("shared-data writes", self.shared_writes),
            ("metric increments", self.metric_increments),
            ("metric records", self.metric_records),
            ("metric reads", self.metric_reads),
            ("header writes", self.header_writes),
            ("property writes", self.property_writes),
            ("clock reads", self.clock_reads),
            ("local replies", self.local_replies),
            ("log lines", self.log_lines),
            ("others", self.others),
        ]
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.rows().into_iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "  {count:>3}  {name}")?;
        }
        write!(f, "  {:>3}  host calls in all", self.total())
    }
}
