//! Where a block can live: workers, tiers, and how far a view of them can be trusted.

/// One cache: an engine instance and its data-parallel rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worker {
    /// Names the engine; whoever registers engines hands these out and never reuses one.
    pub instance: u64,
    /// The data-parallel rank; 0 where there is only one.
    pub rank: u32,
}

/// How near to the compute units a copy lies, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Device memory (G1): usable at once.
    Device,
    /// Host memory (G2).
    Host,
    /// Local disk (G3).
    Disk,
    /// Shared store (G4), and every medium that nobody has heard of.
    Store,
}

/// How far what is known of a worker can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// Nothing is missing, as far as the stream has been heard.
    Exact,
    /// Known to be incomplete, and being repaired.
    Recovering,
    /// Known to be incomplete, and nothing can be had to repair it.
    Stale,
}

// === impl Tier ===

impl Tier {
    /// Every tier, nearest first.
    pub const ALL: [Self; 4] = [Self::Device, Self::Host, Self::Disk, Self::Store];

    /// The tier that an engine's word for a medium means, in any case; `None` for an unknown word,
    /// which callers count and treat as [`Tier::Store`].
    pub fn from_medium(word: &str) -> Option<Self> {
        const WORDS: [(&str, Tier); 9] = [
            ("GPU", Tier::Device),
            ("DEVICE", Tier::Device),
            ("CPU", Tier::Host),
            ("CPU_PINNED", Tier::Host),
            ("CPU_TIER1", Tier::Host),
            ("CPU_TIER2", Tier::Host),
            ("DISK", Tier::Disk),
            ("STORAGE", Tier::Store),
            ("EXTERNAL", Tier::Store),
        ];
        WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, tier)| *tier)
    }

    /// The word that engines use for such a medium; [`Tier::from_medium`] reads it back.
    pub const fn medium(self) -> &'static str {
        match self {
            Self::Device => "GPU",
            Self::Host => "CPU",
            Self::Disk => "DISK",
            Self::Store => "STORAGE",
        }
    }

    /// The word this house uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Host => "host",
            Self::Disk => "disk",
            Self::Store => "store",
        }
    }
}

// === impl View ===

impl View {
    /// The word this house uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Recovering => "recovering",
            Self::Stale => "stale",
        }
    }
}

impl std::fmt::Display for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.instance, self.rank)
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
