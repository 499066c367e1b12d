//! What is asked of the store: requests of a trace, or of conversations that look like one.

use std::collections::HashSet;

/// Requests in the order in which they come.
pub(crate) struct Load {
    pub(crate) name: String,
    pub(crate) requests: Vec<Request>,
    /// How many blocks there are.
    pub(crate) distinct: usize,
    /// How many times a request names one.
    pub(crate) named: usize,
}

/// A prompt, as the blocks that it is made of. Equal blocks mean equal prefixes.
pub(crate) struct Request {
    /// Milliseconds since the first.
    pub(crate) at: u64,
    pub(crate) blocks: Vec<u32>,
}

impl Load {
    fn new(name: String, requests: Vec<Request>) -> Self {
        let distinct: HashSet<u32> = requests.iter().flat_map(|r| r.blocks.iter().copied()).collect();
        let named = requests.iter().map(|request| request.blocks.len()).sum();
        Self { name, requests, distinct: distinct.len(), named }
    }

    /// A trace: a JSON object a line with `timestamp` in milliseconds and `hash_ids`, one for each block of 512 tokens.
    pub(crate) fn of_trace(path: &str) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let request =
            |(at, line)| Request::parse(line).ok_or_else(|| format!("{path}:{}: not a request", at + 1));
        let mut requests = lines.map(request).collect::<Result<Vec<_>, _>>()?;
        requests.sort_by_key(|request| request.at);
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        Ok(Self::new(name, requests))
    }

    /// 1,500 conversations over half an hour: they share a beginning, most are one question, others go on after a minute or
    /// two, and each question brings everything that was said before.
    pub(crate) fn of_conversations() -> Self {
        let (mut chance, mut next, mut requests) = (Chance(7), 1, Vec::new());
        for _ in 0..1_500 {
            let mut at = chance.below(1_800_000);
            let mut blocks = vec![0];
            loop {
                let more = 4 + chance.below(24) as u32;
                blocks.extend(next..next + more);
                next += more;
                requests.push(Request { at, blocks: blocks.clone() });
                if blocks.len() > 200 || chance.below(100) < 35 {
                    break;
                }
                // Half of them within 115 s, a tenth after more than 340 s.
                at += 15_000 + chance.below(1_000).pow(2) * 2 / 5;
            }
        }
        requests.sort_by_key(|request| request.at);
        Self::new("conversations that were made up".to_owned(), requests)
    }
}

impl Request {
    fn parse(line: &str) -> Option<Self> {
        let after = |name: &str| Some(line.split_once(name)?.1.trim_start_matches([':', ' ']));
        let digits = after("\"timestamp\"")?;
        let at = digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        let (ids, _) = after("\"hash_ids\"")?.strip_prefix('[')?.split_once(']')?;
        let ids = ids.split(',').map(str::trim).filter(|id| !id.is_empty());
        let blocks = ids.map(|id| id.parse().ok()).collect::<Option<_>>()?;
        Some(Self { at, blocks })
    }
}

/// Numbers that look like chance, always the same.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
