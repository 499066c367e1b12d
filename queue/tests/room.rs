//! The room in motion: real threads, real logs, a clock that stands still until it is told, places that are counted, and a
//! runner that notes. Nothing here waits for a time to pass: a test waits for what must happen, and fails if it does not.

#[path = "room/kit.rs"]
mod kit;

#[path = "room/ahead.rs"]
mod ahead;
#[path = "room/failures.rs"]
mod failures;
#[path = "room/moves.rs"]
mod moves;
#[path = "room/queues.rs"]
mod queues;
#[path = "room/races.rs"]
mod races;
#[path = "room/standing.rs"]
mod standing;
#[path = "room/storm.rs"]
mod storm;
#[path = "room/times.rs"]
mod times;
