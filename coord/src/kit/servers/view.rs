//! A cluster as one of its nodes sees it: the lines of CLUSTER NODES.

/// A node in the eyes of another, or of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: String,
    pub(super) port: u16,
    pub(super) flags: Vec<String>,
    pub(super) epoch: u64,
    pub(super) linked: bool,
    /// The slots it owns: first and last of each range. None that are on their way.
    pub(super) slots: Vec<(u16, u16)>,
}

impl Seen {
    pub(super) fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|have| have == flag)
    }

    pub(super) fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }

    pub(super) fn count(&self) -> usize {
        self.slots.iter().map(|(first, last)| usize::from(last - first) + 1).sum()
    }
}

/// Reads all lines.
pub(super) fn parse(text: &str) -> Result<Vec<Seen>, String> {
    text.lines()
        .map(|text| line(text).ok_or_else(|| format!("not a line of CLUSTER NODES: {text}")))
        .collect()
}

/// `id ip:port@bus flags master ping pong epoch link slots…`
fn line(text: &str) -> Option<Seen> {
    let words: Vec<_> = text.split_whitespace().collect();
    let [id, address, flags, _, _, _, epoch, link, ref slots @ ..] = words[..] else {
        return None;
    };
    let (_, port) = address.split('@').next()?.rsplit_once(':')?;
    Some(Seen {
        id: id.to_owned(),
        port: port.parse().ok()?,
        flags: flags.split(',').map(str::to_owned).collect(),
        epoch: epoch.parse().ok()?,
        linked: link == "connected",
        slots: slots
            .iter()
            .filter(|slots| !slots.starts_with('['))
            .map(|slots| range(slots))
            .collect::<Option<_>>()?,
    })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let text = "07c3 127.0.0.1:30004@31004,host slave e7d1 0 1426238317239 4 connected\n\
                    e7d1 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5460 7000 [93-<-292f]\n";
        let seen = parse(text).unwrap();
        assert!(seen[0].is("slave") && !seen[0].is("master") && seen[0].linked && seen[0].slots.is_empty());
        assert_eq!((seen[1].port, seen[1].epoch, seen[1].count()), (30001, 1, 5462));
        assert!(seen[1].owns(5460) && seen[1].owns(7000) && !seen[1].owns(93 + 5461));
        parse("e7d1 127.0.0.1:30001@31001 myself").unwrap_err();
    }
}
