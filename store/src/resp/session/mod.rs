//! One client's conversation: commands in, answers out. It knows no socket and reads no clock but the house's.
//!
//! - S1: every command is answered exactly once, in order, except where the connection ends.
//! - S2: whoever has not said who they are reaches no key.

mod keys;
mod meet;
mod put;
mod tell;
mod warm;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::command::{Command, Kind, refused};
use super::contract::{Answer, Life, Sink, Store, Tenant};
use super::decode::{Args, Decoder};
use super::house::{House, Peer};
use super::inline;
use super::out::{Out, Protocol};
use super::refusal::{Code, Refusal};

/// What became of a command.
pub enum Ran {
    /// It is answered.
    Done,
    /// A part of the answer is there: ask again when there is room for more.
    Again,
    /// The store must be waited for.
    Wait(Wait),
    /// Send what there is, and close.
    Close,
}

/// What the store must still do, and then how to answer.
pub type Wait = Pin<Box<dyn Future<Output = Finish> + Send>>;
/// Writes an answer.
pub type Finish = Box<dyn FnOnce(&mut Out) + Send>;

/// One client's conversation.
pub struct Session<S: Store> {
    house: Arc<House<S>>,
    peer: Arc<Peer>,
    /// Whose keys it sees; nobody's before it has said who it is.
    tenant: Option<Tenant>,
    /// The values of the command that is arriving, in their order.
    values: Vec<Value<S>>,
    /// How much of them is counted in the house.
    claimed: usize,
    /// The life that stands before a value.
    life: Option<Result<Life, Refusal>>,
    /// What it has promised to read.
    promises: warm::Promises<S::Warm>,
    /// Where a long command goes on.
    next: usize,
}

/// Space for a value that has arrived, or why it was not wanted.
type Value<S> = Result<<S as Store>::Sink, Refusal>;

/// A command's only value of up to so many bytes is not counted as arriving: ten thousand of them are 160 MiB.
const SMALL: usize = 16 << 10;

// === impl Session ===

impl<S: Store> Session<S> {
    /// A client that has said nothing.
    pub fn new(house: Arc<House<S>>, peer: Arc<Peer>) -> Self {
        let mut session = Self {
            house,
            peer,
            tenant: None,
            values: Vec::new(),
            claimed: 0,
            life: None,
            promises: warm::Promises::default(),
            next: 0,
        };
        session.anonymous();
        session
    }

    /// Whether it has not said who it is.
    pub fn is_stranger(&self) -> bool {
        self.tenant.is_none()
    }

    /// A value of this length comes next: the space for it.
    pub fn announce(&mut self, decoder: &Decoder, len: usize) -> Answer<S::Sink> {
        let args = decoder.args();
        let Some(command) = decoder.command() else { return Answer::refused(unknown(args)) };
        self.space(command, args, args.arrived(), decoder.too_long(), len)
    }

    /// The answer to [`Session::announce`], or why there is none; whether the value is wanted.
    pub fn expect(&mut self, space: Result<S::Sink, Refusal>, len: usize) -> bool {
        let counted = len > SMALL || !self.values.is_empty();
        let value = match space {
            Ok(_) if counted && !self.house.arrive(len) => {
                Err(Refusal::new(Code::Busy, "too many bytes of values are arriving at once"))
            }
            space => space,
        };
        let wanted = value.is_ok();
        if wanted && counted {
            self.claimed += len;
        }
        self.values.push(value);
        wanted
    }

    /// The space that is being filled.
    pub fn filling(&mut self) -> &mut [u8] {
        match self.values.last_mut() {
            Some(Ok(sink)) => sink.space(),
            _ => &mut [],
        }
    }

    /// Carries a command out. After [`Ran::Again`] it is called again with the same.
    pub fn run(&mut self, decoder: &Decoder, out: &mut Out) -> Ran {
        let args = decoder.args();
        if self.next == 0 {
            out.tally.command(decoder.command().map(|command| command.index));
        }
        match self.check(decoder) {
            Ok(command) => {
                self.peer.last.store(command.index as u16, Ordering::Relaxed);
                self.carry_out(command, args, out)
            }
            Err(refusal) => refuse(out, &refusal),
        }
    }

    /// The command is answered: what it still held is dropped.
    pub fn over(&mut self) {
        self.values.clear();
        (self.life, self.next) = (None, 0);
        if self.claimed > 0 {
            self.house.arrived(std::mem::take(&mut self.claimed));
        }
    }

    /// Whether a command that was waited for goes on.
    pub fn goes_on(&self) -> bool {
        self.next > 0
    }

    /// Whether a typed command brings its values with it, and which comes next: its place.
    pub fn next_typed(&self, decoder: &Decoder) -> Option<usize> {
        let command = decoder.command().filter(|_| decoder.typed())?;
        let args = decoder.args();
        (0..args.count()).filter(|index| command.takes_value_at(*index)).nth(self.values.len())
    }

    /// Space for a value of a typed command.
    pub fn announce_typed(&mut self, decoder: &Decoder, index: usize) -> Answer<S::Sink> {
        let args = decoder.args();
        let Some(command) = decoder.command() else { return Answer::refused(unknown(args)) };
        self.space(command, args, index, decoder.too_long(), args.get(index).len())
    }

    fn space(
        &mut self,
        command: &Command,
        args: Args<'_>,
        index: usize,
        too_long: Option<usize>,
        len: usize,
    ) -> Answer<S::Sink> {
        if !command.accepts(args.count()) {
            return Answer::refused(arity(command.name));
        }
        self.life = match command.kind {
            Kind::SetEx => Some(put::time(args.get(2), 1000, "setex")),
            Kind::PSetEx => Some(put::time(args.get(2), 1, "psetex")),
            _ => None,
        };
        let Some(tenant) = &self.tenant else { return Answer::refused(Refusal::no_auth()) };
        let settings = &self.house.settings;
        if let Some(long) = too_long {
            return Answer::refused(too_large(long, settings.command.argument, "an argument"));
        }
        if len > settings.value {
            return Answer::refused(too_large(len, settings.value, "a value"));
        }
        self.house.store.reserve(tenant, args.get(command.key_of(index)), len)
    }

    fn check(&self, decoder: &Decoder) -> Result<&'static Command, Refusal> {
        let args = decoder.args();
        let argument = self.house.settings.command.argument;
        let long = decoder.too_long().map(|len| too_large(len, argument, "an argument"));
        let Some(command) = decoder.command() else { return Err(long.unwrap_or_else(|| unknown(args))) };
        if !command.accepts(args.count()) {
            return Err(arity(command.name));
        }
        let open = matches!(command.kind, Kind::Auth | Kind::Hello | Kind::Quit | Kind::Reset);
        if self.tenant.is_none() && !open {
            return Err(Refusal::no_auth());
        }
        long.map_or(Ok(command), Err)
    }

    fn carry_out(&mut self, command: &'static Command, args: Args<'_>, out: &mut Out) -> Ran {
        match command.kind {
            Kind::Get => self.get(args, out),
            Kind::Set => self.set(args, out),
            Kind::Exists => self.exists(args, out),
            Kind::MGet => self.get_many(args, out),
            Kind::MSet => self.set_many(out),
            Kind::Del => self.remove(args, out),
            Kind::GetRange => self.get_range(args, out),
            Kind::Strlen => self.length(args, out),
            Kind::Ttl => self.life(args, 1000, out),
            Kind::Pttl => self.life(args, 1, out),
            Kind::Type => self.kind(args, out),
            Kind::SetNx => self.set_if_absent(out),
            Kind::SetEx | Kind::PSetEx => self.set_for(out),
            Kind::Scan => self.scan(args, out),
            Kind::DbSize => self.count(out),
            Kind::Flush => self.flush(out),
            Kind::Ping => ping(args, out),
            Kind::Echo => said(out, |out| out.bulk(args.get(1))),
            Kind::Select => select(args, out),
            Kind::Quit => {
                out.simple("OK");
                Ran::Close
            }
            Kind::Auth => self.auth(args, out),
            Kind::Hello => self.hello(args, out),
            Kind::Reset => self.reset(out),
            Kind::Client => self.client(args, out),
            Kind::Command => tell::commands(args, out),
            Kind::Config => self.config(args, out),
            Kind::Info => self.info(args, out),
            Kind::Warm => self.warm(args, out),
            Kind::Cool => self.cool(args, out),
        }
    }

    /// Nobody, or everybody where no keys are needed.
    fn anonymous(&mut self) {
        self.tenant = self.house.settings.access.is_open().then(Tenant::default);
        self.peer.told.lock().tenant.clone_from(&self.tenant);
    }

    fn speaks(&mut self, protocol: Protocol, out: &mut Out) {
        out.protocol = protocol;
        self.peer.protocol.store(if protocol == Protocol::Two { 2 } else { 3 }, Ordering::Relaxed);
    }
}

impl<S: Store> Drop for Session<S> {
    fn drop(&mut self) {
        self.over();
    }
}

// === Answers ===

fn said(out: &mut Out, say: impl FnOnce(&mut Out)) -> Ran {
    say(out);
    Ran::Done
}

fn refuse(out: &mut Out, refusal: &Refusal) -> Ran {
    out.refuse(refusal);
    Ran::Done
}

/// Says what the store answers, at once if it is there.
fn answer<T: Send + 'static>(
    answer: Answer<T>,
    out: &mut Out,
    say: impl FnOnce(T, &mut Out) + Send + 'static,
) -> Ran {
    let say = |done: Result<T, Refusal>, out: &mut Out| match done {
        Ok(done) => say(done, out),
        Err(refusal) => out.refuse(&refusal),
    };
    match answer {
        Answer::Now(done) => {
            say(done, out);
            Ran::Done
        }
        Answer::Later(later) => Ran::Wait(Box::pin(async move {
            let done = later.await;
            Box::new(move |out: &mut Out| say(done, out)) as Finish
        })),
    }
}

fn ping(args: Args<'_>, out: &mut Out) -> Ran {
    match args.count() {
        1 => out.simple("PONG"),
        2 => out.bulk(args.get(1)),
        _ => out.refuse(&arity("PING")),
    }
    Ran::Done
}

fn select(args: Args<'_>, out: &mut Out) -> Ran {
    match inline::number(args.get(1)) {
        Some(0) => out.simple("OK"),
        Some(_) => out.refuse(&Refusal::err("DB index is out of range")),
        None => out.refuse(&not_a_number()),
    }
    Ran::Done
}

fn arity(name: &str) -> Refusal {
    Refusal::err(format!("wrong number of arguments for '{}' command", name.to_ascii_lowercase()))
}

fn too_large(len: usize, most: usize, what: &str) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("{what} of {len} bytes is larger than {most}, the most that is taken"),
    )
}

fn not_a_number() -> Refusal {
    Refusal::err("value is not an integer or out of range")
}

fn syntax() -> Refusal {
    Refusal::err("syntax error")
}

fn unknown(args: Args<'_>) -> Refusal {
    const MOST: usize = 128;
    let name = args.get(0);
    let text =
        |bytes: &[u8], most: usize| String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned();
    if let Some(why) = refused(name) {
        return Refusal::err(format!("{} is not done here: {why}", text(name, MOST).to_ascii_uppercase()));
    }
    let mut shown = String::new();
    for arg in args.from(1) {
        if shown.len() >= MOST {
            break;
        }
        let arg = text(arg, MOST - shown.len());
        shown.extend(["'", &arg, "' "]);
    }
    Refusal::err(format!("unknown command '{}', with args beginning with: {shown}", text(name, MOST)))
}
