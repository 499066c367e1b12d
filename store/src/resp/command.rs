//! The commands: what they are called, what they take, and what becomes of those that are not done here.

/// One command.
#[derive(Debug)]
pub struct Command {
    /// Its name in capitals.
    pub name: &'static str,
    /// How many arguments with its name; negative: at least so many.
    pub arity: i64,
    /// What it does.
    pub kind: Kind,
    /// Its place among the counters.
    pub index: usize,
    /// Words that clients read.
    pub flags: &'static [&'static str],
    /// The first key, the last one (negative: from the end), and the step from one to the next.
    pub keys: (i64, i64, i64),
    /// Which group the documentation puts it in.
    pub group: &'static str,
    /// What it does, for people.
    pub summary: &'static str,
    values: Values,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of its name")]
pub enum Kind {
    Auth,
    Client,
    Command,
    Config,
    Cool,
    DbSize,
    Del,
    Echo,
    Exists,
    Flush,
    Get,
    GetRange,
    Hello,
    Info,
    MGet,
    MSet,
    Ping,
    PSetEx,
    Pttl,
    Quit,
    Reset,
    Scan,
    Select,
    Set,
    SetEx,
    SetNx,
    Strlen,
    Ttl,
    Type,
    Warm,
}

/// Which arguments are values: announced to the store, never kept beside it.
#[derive(Clone, Copy, Debug)]
enum Values {
    None,
    At(usize),
    /// The third, the fifth and so on.
    Pairs,
}

/// Every command in the order of its name.
pub static TABLE: [Command; COUNT] = numbered([
    row("AUTH", -2, Kind::Auth, FAST, NO_KEYS, "connection", "Says who you are: AUTH [tenant] key."),
    row("CLIENT", -2, Kind::Client, FAST, NO_KEYS, "connection", "Names and lists connections."),
    row("COMMAND", -1, Kind::Command, FAST, NO_KEYS, "server", "Tells which commands there are."),
    row("CONFIG", -2, Kind::Config, ADMIN, NO_KEYS, "server", "Tells a few settings; changes none."),
    row("COOL", -2, Kind::Cool, FAST, NO_KEYS, "generic", "Takes back what WARM of these names said."),
    row("DBSIZE", 1, Kind::DbSize, READ, NO_KEYS, "server", "Counts the keys of the tenant."),
    row("DEL", -2, Kind::Del, WRITE, ALL_KEYS, "generic", "Removes keys."),
    row("ECHO", 2, Kind::Echo, FAST, NO_KEYS, "connection", "Answers with its argument."),
    row("EXISTS", -2, Kind::Exists, READ, ALL_KEYS, "generic", "Counts those of the keys that are there."),
    row("FLUSHALL", -1, Kind::Flush, WRITE, NO_KEYS, "server", "Removes all keys of the tenant, if allowed."),
    row("FLUSHDB", -1, Kind::Flush, WRITE, NO_KEYS, "server", "Removes all keys of the tenant, if allowed."),
    row("GET", 2, Kind::Get, READ, ONE_KEY, "string", "Reads a value."),
    row("GETRANGE", 4, Kind::GetRange, READ, ONE_KEY, "string", "Reads a part of a value."),
    row("HELLO", -1, Kind::Hello, FAST, NO_KEYS, "connection", "Chooses the protocol, and says who you are."),
    row("INFO", -1, Kind::Info, ADMIN, NO_KEYS, "server", "Tells how the server is."),
    row("MGET", -2, Kind::MGet, READ, ALL_KEYS, "string", "Reads many values, each for itself."),
    row("MSET", -3, Kind::MSet, WRITE, (1, -1, 2), "string", "Writes many values.").pairs(),
    row("PING", -1, Kind::Ping, FAST, NO_KEYS, "connection", "Answers."),
    row("PSETEX", 4, Kind::PSetEx, WRITE, ONE_KEY, "string", "Writes a value for milliseconds.").value(3),
    row("PTTL", 2, Kind::Pttl, READ, ONE_KEY, "generic", "Tells how long a key lives, in milliseconds."),
    row("QUIT", -1, Kind::Quit, FAST, NO_KEYS, "connection", "Closes the connection."),
    row("RESET", 1, Kind::Reset, FAST, NO_KEYS, "connection", "Makes the connection as new."),
    row("SCAN", -2, Kind::Scan, READ, NO_KEYS, "generic", "Lists keys, some at a time."),
    row("SELECT", 2, Kind::Select, FAST, NO_KEYS, "connection", "Chooses the database; there is only 0."),
    row("SET", -3, Kind::Set, WRITE, ONE_KEY, "string", "Writes a value.").value(2),
    row("SETEX", 4, Kind::SetEx, WRITE, ONE_KEY, "string", "Writes a value for seconds.").value(3),
    row("SETNX", 3, Kind::SetNx, WRITE, ONE_KEY, "string", "Writes a value if its key is not there.")
        .value(2),
    row("STRLEN", 2, Kind::Strlen, READ, ONE_KEY, "string", "Tells how long a value is."),
    row("SUBSTR", 4, Kind::GetRange, READ, ONE_KEY, "string", "Reads a part of a value."),
    row("TTL", 2, Kind::Ttl, READ, ONE_KEY, "generic", "Tells how long a key lives, in seconds."),
    row("TYPE", 2, Kind::Type, READ, ONE_KEY, "generic", "Tells `string`, or `none`."),
    row("UNLINK", -2, Kind::Del, WRITE, ALL_KEYS, "generic", "Removes keys."),
    row("WARM", -5, Kind::Warm, FAST, NO_KEYS, "generic", "Says what will be read, and within what time."),
]);

/// How many commands there are.
pub const COUNT: usize = 33;

const READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write", "denyoom"];
const FAST: &[&str] = &["fast", "loading", "stale"];
const ADMIN: &[&str] = &["loading", "stale"];
const NO_KEYS: (i64, i64, i64) = (0, 0, 0);
const ONE_KEY: (i64, i64, i64) = (1, 1, 1);
const ALL_KEYS: (i64, i64, i64) = (1, -1, 1);

/// The command of a name, however it is written.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    let word = super::decode::Word::of(name);
    let at = TABLE.binary_search_by(|command| command.name.as_bytes().cmp(word.bytes())).ok()?;
    Some(&TABLE[at])
}

/// Why a command that Redis has is not one here; `None` if nobody is expected to look for it.
pub fn refused(name: &[u8]) -> Option<&'static str> {
    let word = super::decode::Word::of(name);
    Some(match word.bytes() {
        b"EXPIRE" | b"PEXPIRE" | b"EXPIREAT" | b"PEXPIREAT" | b"PERSIST" | b"GETEX" | b"TOUCH" => {
            "an object's life is fixed when it is written: use SET with EX or PX"
        }
        b"KEYS" | b"RANDOMKEY" => "it would walk over every key at once: use SCAN",
        b"MULTI" | b"EXEC" | b"DISCARD" | b"WATCH" | b"UNWATCH" => {
            "there are no transactions: send a plain pipeline (redis-py: pipeline(transaction=False))"
        }
        b"MSETNX" => "keys of different nodes cannot be written all or none: use SET with NX for each",
        b"GETSET" | b"GETDEL" => "reading and writing are two steps here: use GET, then SET or DEL",
        b"APPEND" | b"SETRANGE" | b"INCR" | b"DECR" | b"INCRBY" | b"DECRBY" | b"INCRBYFLOAT" | b"SETBIT"
        | b"COPY" | b"RENAME" | b"RENAMENX" | b"MOVE" => {
            "a block does not change once it is written: write another with SET"
        }
        b"EVAL" | b"EVALSHA" | b"SCRIPT" | b"FCALL" | b"FUNCTION" => "there are no scripts",
        b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" | b"PUBLISH" | b"MONITOR" => "there are no channels",
        _ => return None,
    })
}

// === impl Command ===

impl Command {
    /// Whether so many arguments, with the name, are what it takes.
    pub fn accepts(&self, count: usize) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        match self.values {
            Values::Pairs if count % 2 == 0 => false,
            _ => count == self.arity || (self.arity < 0 && count >= -self.arity),
        }
    }

    /// Whether the argument at this place is a value.
    pub fn takes_value_at(&self, index: usize) -> bool {
        match self.values {
            Values::None => false,
            Values::At(at) => at == index,
            Values::Pairs => index >= 2 && index.is_multiple_of(2),
        }
    }

    /// Where the key of a value stands.
    pub fn key_of(&self, value: usize) -> usize {
        match self.values {
            Values::Pairs => value - 1,
            Values::None | Values::At(_) => 1,
        }
    }

    const fn value(mut self, at: usize) -> Self {
        self.values = Values::At(at);
        self
    }

    const fn pairs(mut self) -> Self {
        self.values = Values::Pairs;
        self
    }
}

const fn row(
    name: &'static str,
    arity: i64,
    kind: Kind,
    flags: &'static [&'static str],
    keys: (i64, i64, i64),
    group: &'static str,
    summary: &'static str,
) -> Command {
    Command { name, arity, kind, index: 0, flags, keys, group, summary, values: Values::None }
}

const fn numbered(mut table: [Command; COUNT]) -> [Command; COUNT] {
    let mut at = 0;
    while at < COUNT {
        table[at].index = at;
        at += 1;
    }
    table
}
