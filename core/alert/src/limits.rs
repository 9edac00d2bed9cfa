//! Limits of one rule.

/// Bounds that a rule is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Conditions that test a value, all levels together.
    pub conditions: usize,
    /// Levels of `all` and `any`.
    pub depth: usize,
    /// Shortest window, in milliseconds. Windows have 120 steps, and a step is whole milliseconds.
    pub min_window_ms: u64,
    /// Longest window, in milliseconds.
    pub max_window_ms: u64,
    /// Longest cooldown, in milliseconds.
    pub max_cooldown_ms: u64,
    /// Bytes of a template.
    pub template_bytes: usize,
    /// Bytes of a name.
    pub name_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
        Self {
            conditions: 16,
            depth: 3,
            min_window_ms: 1_000,
            max_window_ms: 7 * DAY_MS,
            max_cooldown_ms: 30 * DAY_MS,
            template_bytes: 1_024,
            name_bytes: 128,
        }
    }
}
