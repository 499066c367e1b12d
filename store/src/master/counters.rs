//! What the master has done, in numbers. Each shard counts its own, under its lock; they are added up when somebody asks.

/// Adds up structures of counters field by field.
macro_rules! tally {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: u64,)+
        }

        impl $name {
            /// Each by its name.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field)),+]
            }
        }

        impl std::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)+
            }
        }
    };
}

tally! {
    /// `warmline_store_promotion_candidate_*_total`. Cleared together with the candidates.
    ///
    /// `recorded = admitted + expired_evaluated + expired_unevaluated + settled + candidates`.
    Candidates {
        /// New candidates.
        recorded,
        /// Candidates that the background tick got promoted.
        admitted,
        /// Candidates that met a gate again when they were tried.
        admission_rejected,
        /// Candidates that were given up after they had been tried.
        expired_evaluated,
        /// Candidates that were given up before they were ever tried: the tick looks at too little.
        expired_unevaluated,
        /// Candidates that were not recorded because there were too many.
        dropped_limit,
        /// Candidates that needed nothing more: gone, in memory, promoted by a hit, no longer waited for.
        settled,
    }
}

tally! {
    /// `warmline_store_promotion_candidate_admission_rejected_total`, by reason: which gate a candidate met again. Together they are
    /// [`Candidates::admission_rejected`], and are cleared with it.
    Again {
        /// Memory is above the watermark, and nothing there is colder.
        watermark,
        /// Its tenant has what it may have.
        quota,
        /// As many are under way as may be.
        cap,
        /// The line of orders of its holder is full.
        push_failed,
        /// No node that has it can be asked.
        holder_away,
        /// It is being put anew.
        being_put,
    }
}

tally! {
    /// `warmline_store_promotion_*_total`: `admitted = completed + failed + expired + cancelled + in flight`.
    Promotions {
        /// Tasks that were begun.
        admitted,
        /// Tasks whose copy is in memory.
        completed,
        /// Bytes of those.
        completed_bytes,
        /// Tasks that their holder could not carry out.
        failed,
        /// Tasks that took too long.
        expired,
        /// Tasks that were no longer of use: removed, overwritten, not waited for, holder or target lost.
        cancelled,
    }
}

tally! {
    /// `warmline_store_promotion_rejected_total`, by reason: each try counts one gate.
    Rejected {
        /// Promotion is off.
        off,
        /// No such object.
        gone,
        /// It is in memory.
        in_memory,
        /// It is on its way.
        in_flight,
        /// It was not read often enough.
        cold,
        /// It is being put anew.
        being_put,
        /// Memory is above the watermark, and nothing there is colder.
        watermark,
        /// Its tenant has what it may have.
        quota,
        /// As many are under way as may be.
        cap,
        /// No node that has it can be asked.
        holder_away,
        /// The line of orders of its holder is full.
        push_failed,
    }
}

tally! {
    /// `warmline_store_warm_*_total`, in keys: `asked = in_time + too_late + cancelled + gone + pending`.
    Warmed {
        /// Keys that somebody wanted warm.
        asked,
        /// In memory in time, or already there.
        in_time,
        /// Not in memory in time.
        too_late,
        /// Whoever wanted it left.
        cancelled,
        /// Not in the store, or no longer.
        gone,
        /// Copies that were brought to memory for somebody and left it without ever being read. Not part of the sum.
        never_used,
    }
}

tally! {
    /// `warmline_store_*_total`: puts and copies.
    Moves {
        /// Puts that were let in.
        reserved,
        /// Puts that were committed.
        committed,
        /// Puts that failed.
        revoked,
        /// Puts that took too long, or whose node was lost.
        displaced,
        /// Objects that somebody removed or put anew.
        removed,
        /// Objects whose time was over.
        ended,
        /// Gets that found memory.
        hits_memory,
        /// Gets that found only disk.
        hits_disk,
        /// Gets that found nothing.
        misses,
        /// Copies in memory that were dropped for space.
        evicted_memory,
        /// Bytes of those.
        evicted_memory_bytes,
        /// Copies on disk that were dropped for space.
        evicted_disk,
        /// Objects of which eviction took the last copy.
        evicted_last,
        /// Offloads that were ordered.
        offloads,
        /// Offloads that reached the disk.
        offloaded,
        /// Offloads that did not: failed, took too long, or no longer of use.
        offloads_failed,
        /// Objects that could not be written to disk when they should have been; they are in memory only.
        offloads_refused,
        /// Copies that nodes lost.
        lost,
    }
}

/// Everything that is counted in a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Candidates.
    pub candidates: Candidates,
    /// Gates that candidates met again.
    pub again: Again,
    /// Promotions.
    pub promotions: Promotions,
    /// Tries that met a gate.
    pub rejected: Rejected,
    /// Warming.
    pub warmed: Warmed,
    /// Puts and copies.
    pub moves: Moves,
}

/// What is there now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Objects.
    pub objects: u64,
    /// Candidates for promotion.
    pub candidates: u64,
    /// Promotions under way.
    pub promotions: u64,
    /// Puts under way.
    pub puts: u64,
    /// Offloads under way.
    pub offloads: u64,
    /// Keys that somebody waits for.
    pub awaited: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.candidates += other.candidates;
        self.again += other.again;
        self.promotions += other.promotions;
        self.rejected += other.rejected;
        self.warmed += other.warmed;
        self.moves += other.moves;
    }
}
