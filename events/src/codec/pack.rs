//! A cursor over MessagePack: just what event streams use, borrowed from the input.

/// Why bytes are not what was expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The input ends within a value.
    #[error("the payload ends within a value")]
    Truncated,
    /// Another kind of value stands where this one was expected.
    #[error("expected {0}")]
    Expected(&'static str),
    /// Values lie within values too deeply.
    #[error("nested too deeply")]
    TooDeep,
    /// A length promises more than the payload holds, or than any engine needs.
    #[error("a length is larger than the payload")]
    TooLong,
}

/// A position in a payload.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

/// One value; of containers only the head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Nil,
    Bool(bool),
    /// Any integer, as its two's complement bits.
    Int(u64),
    Float(f64),
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    Array(usize),
    Map(usize),
    Other,
}

/// No engine nests deeper than five; a hostile payload may try.
const MAX_DEPTH: usize = 16;

impl<'a> Cursor<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn number<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn length<const N: usize>(&mut self) -> Result<usize, Malformed> {
        Ok(self.number::<N>()?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    }

    /// A container's head is only as long as the payload can hold: one byte an element at least.
    fn count(&self, length: usize) -> Result<usize, Malformed> {
        if length > self.rest.len() { Err(Malformed::TooLong) } else { Ok(length) }
    }

    /// The next value, or the head of a container.
    pub(super) fn next(&mut self) -> Result<Value<'a>, Malformed> {
        let [tag] = self.number()?;
        Ok(match tag {
            0x00..=0x7f => Value::Int(u64::from(tag)),
            0x80..=0x8f => Value::Map(self.count(usize::from(tag & 0x0f))?),
            0x90..=0x9f => Value::Array(self.count(usize::from(tag & 0x0f))?),
            0xa0..=0xbf => Value::Text(self.take(usize::from(tag & 0x1f))?),
            0xc0 => Value::Nil,
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4 => {
                let length = self.length::<1>()?;
                Value::Bytes(self.take(length)?)
            }
            0xc5 => {
                let length = self.length::<2>()?;
                Value::Bytes(self.take(length)?)
            }
            0xc6 => {
                let length = self.length::<4>()?;
                Value::Bytes(self.take(length)?)
            }
            0xca => Value::Float(f64::from(f32::from_be_bytes(self.number()?))),
            0xcb => Value::Float(f64::from_be_bytes(self.number()?)),
            0xcc => Value::Int(u64::from(self.number::<1>()?[0])),
            0xcd => Value::Int(u64::from(u16::from_be_bytes(self.number()?))),
            0xce => Value::Int(u64::from(u32::from_be_bytes(self.number()?))),
            0xcf | 0xd3 => Value::Int(u64::from_be_bytes(self.number()?)),
            0xd0 => Value::Int(i64::from(i8::from_be_bytes(self.number()?)) as u64),
            0xd1 => Value::Int(i64::from(i16::from_be_bytes(self.number()?)) as u64),
            0xd2 => Value::Int(i64::from(i32::from_be_bytes(self.number()?)) as u64),
            0xe0..=0xff => Value::Int(i64::from(tag as i8) as u64),
            0xd9 => {
                let length = self.length::<1>()?;
                Value::Text(self.take(length)?)
            }
            0xda => {
                let length = self.length::<2>()?;
                Value::Text(self.take(length)?)
            }
            0xdb => {
                let length = self.length::<4>()?;
                Value::Text(self.take(length)?)
            }
            0xdc => {
                let length = self.length::<2>()?;
                Value::Array(self.count(length)?)
            }
            0xdd => {
                let length = self.length::<4>()?;
                Value::Array(self.count(length)?)
            }
            0xde => {
                let length = self.length::<2>()?;
                Value::Map(self.count(length)?)
            }
            0xdf => {
                let length = self.length::<4>()?;
                Value::Map(self.count(length)?)
            }
            0xc7 => self.extension::<1>()?,
            0xc8 => self.extension::<2>()?,
            0xc9 => self.extension::<4>()?,
            0xd4..=0xd8 => {
                self.take(1 + (1 << (tag - 0xd4)))?;
                Value::Other
            }
            0xc1 => return Err(Malformed::Expected("a MessagePack value")),
        })
    }

    fn extension<const N: usize>(&mut self) -> Result<Value<'a>, Malformed> {
        let length = self.length::<N>()?;
        self.take(length.checked_add(1).ok_or(Malformed::TooLong)?)?;
        Ok(Value::Other)
    }

    /// Passes over one value with all that lies in it.
    pub(super) fn skip(&mut self) -> Result<(), Malformed> {
        self.skip_within(MAX_DEPTH)
    }

    fn skip_within(&mut self, depth: usize) -> Result<(), Malformed> {
        let values = match self.next()? {
            Value::Array(count) => count,
            Value::Map(count) => count * 2,
            _ => return Ok(()),
        };
        let depth = depth.checked_sub(1).ok_or(Malformed::TooDeep)?;
        (0..values).try_for_each(|_| self.skip_within(depth))
    }

    pub(super) fn array(&mut self) -> Result<usize, Malformed> {
        match self.next()? {
            Value::Array(count) => Ok(count),
            _ => Err(Malformed::Expected("an array")),
        }
    }

    /// Whether the next value is nil; if so it is taken.
    pub(super) fn nil(&mut self) -> bool {
        let nil = self.rest.first() == Some(&0xc0);
        if nil {
            self.rest = &self.rest[1..];
        }
        nil
    }

    /// `count` unsigned integers of 32 bits, appended; the hot loop of token-id batches.
    pub(super) fn u32s(&mut self, count: usize, to: &mut Vec<u32>) -> Result<(), Malformed> {
        to.reserve(count);
        for _ in 0..count {
            let token = match self.rest {
                [tag @ 0x00..=0x7f, rest @ ..] => {
                    self.rest = rest;
                    u32::from(*tag)
                }
                [0xcd, high, low, rest @ ..] => {
                    self.rest = rest;
                    u32::from(u16::from_be_bytes([*high, *low]))
                }
                [0xce, a, b, c, d, rest @ ..] => {
                    self.rest = rest;
                    u32::from_be_bytes([*a, *b, *c, *d])
                }
                _ => match self.next()? {
                    Value::Int(number) => {
                        u32::try_from(number).map_err(|_| Malformed::Expected("a token id of 32 bits"))?
                    }
                    _ => return Err(Malformed::Expected("a token id")),
                },
            };
            to.push(token);
        }
        Ok(())
    }
}
