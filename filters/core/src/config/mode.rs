//! `mode`: what a policy and its patterns do with their decisions.

/// What a breaker does with its decisions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BreakerMode {
    /// Refuses.
    Enforce,
    /// Decides and counts, and lets pass.
    Shadow,
    /// Refuses everything, whatever its state.
    ForcedOpen,
    /// Would refuse everything; counts, and lets pass.
    ShadowForcedOpen,
    /// Does nothing.
    Disabled,
}

/// What any other pattern does with its decisions. None is forced open: it has no state that it could be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatternMode {
    /// Acts on them.
    Enforce,
    /// Decides and counts, and lets pass.
    Shadow,
    /// Does nothing.
    Disabled,
}

/// `mode` as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Enforce,
    Shadow,
    Disabled,
    ForcedOpen,
}

/// The words of a breaker; those of a policy are the first three.
pub(super) const MODES: [(&str, Mode); 4] = [
    ("enforce", Mode::Enforce),
    ("shadow", Mode::Shadow),
    ("disabled", Mode::Disabled),
    ("forced_open", Mode::ForcedOpen),
];

/// The words of every other pattern.
pub(super) const PATTERN_MODES: [(&str, PatternMode); 3] =
    [("enforce", PatternMode::Enforce), ("shadow", PatternMode::Shadow), ("disabled", PatternMode::Disabled)];

impl BreakerMode {
    /// Its word; that of a forced one in a policy in shadow mode says both.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
            Self::ForcedOpen => "forced_open",
            Self::ShadowForcedOpen => "shadow_forced_open",
            Self::Disabled => "disabled",
        }
    }

    /// Whether it only counts what it decides.
    #[must_use]
    pub const fn is_shadow(self) -> bool {
        matches!(self, Self::Shadow | Self::ShadowForcedOpen)
    }
}

impl Mode {
    /// What a breaker of this mode does in a policy of `outer`: a policy can only soften its patterns.
    pub(super) const fn within(self, outer: Self) -> BreakerMode {
        match (outer, self) {
            (Self::Disabled, _) | (_, Self::Disabled) => BreakerMode::Disabled,
            (Self::Shadow, Self::ForcedOpen) => BreakerMode::ShadowForcedOpen,
            (Self::Shadow, _) | (_, Self::Shadow) => BreakerMode::Shadow,
            (_, Self::Enforce) => BreakerMode::Enforce,
            (_, Self::ForcedOpen) => BreakerMode::ForcedOpen,
        }
    }
}

impl PatternMode {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
            Self::Disabled => "disabled",
        }
    }

    /// What a pattern of this mode does in a policy of `outer`: a policy can only soften its patterns.
    pub(super) const fn within(self, outer: Mode) -> Self {
        match (outer, self) {
            (Mode::Disabled, _) | (_, Self::Disabled) => Self::Disabled,
            (Mode::Shadow, _) | (_, Self::Shadow) => Self::Shadow,
            (Mode::Enforce | Mode::ForcedOpen, Self::Enforce) => Self::Enforce,
        }
    }
}

/// What comes of a policy's mode and that of a pattern in it.
#[cfg(test)]
pub(super) const SOFTENED: [(&str, &str, PatternMode); 9] = [
    ("enforce", "enforce", PatternMode::Enforce),
    ("enforce", "shadow", PatternMode::Shadow),
    ("enforce", "disabled", PatternMode::Disabled),
    ("shadow", "enforce", PatternMode::Shadow),
    ("shadow", "shadow", PatternMode::Shadow),
    ("shadow", "disabled", PatternMode::Disabled),
    ("disabled", "enforce", PatternMode::Disabled),
    ("disabled", "shadow", PatternMode::Disabled),
    ("disabled", "disabled", PatternMode::Disabled),
];
