//! What memory for blocks costs: giving out and taking back beside malloc, filling beside a plain copy.
//!
//! `cargo bench -p warmline-store --bench arena`. Medians of rounds in which ours and the floor take turns.

use std::hint::black_box;
use std::time::Instant;

use store::arena::{Arena, Block};

const ROUNDS: usize = 5;
const SIZES: [usize; 4] = [4 << 10, 64 << 10, 1 << 20, 16 << 20];

fn main() {
    turnover();
    filling();
    threads();
}

/// Blocks come and go while the arena is nine tenths full, in no order.
fn turnover() {
    println!(
        "alloc and free of mixed sizes, 4 KiB to 16 MiB, arena 4 GiB, nine tenths full; medians of {ROUNDS}"
    );
    let arena = Arena::new(4 << 30).expect("memory");
    let mut dice = Dice(1);
    let mut held: Vec<Block> = Vec::new();
    let full = |arena: &Arena| arena.space().set_aside > arena.space().capacity / 10 * 9;
    let (mut ours, mut malloc) = (Vec::new(), Vec::new());
    while !full(&arena) {
        held.extend(block(&arena, dice.length()));
    }
    for _ in 0..ROUNDS {
        let (began, mut many) = (now(), 0_u64);
        while many < 20_000 {
            let out = dice.roll(held.len() as u64) as usize;
            held.swap_remove(out);
            while let Some(block) = block(&arena, dice.length()).filter(|_| !full(&arena)) {
                held.push(block);
                many += 1;
            }
        }
        ours.push(began.elapsed().as_secs_f64() * 1e9 / many as f64);
        let mut boxes: Vec<Vec<u8>> = (0..held.len()).map(|_| Vec::with_capacity(dice.length())).collect();
        let began = now();
        for _ in 0..20_000 {
            let at = dice.roll(boxes.len() as u64) as usize;
            boxes[at] = black_box(Vec::with_capacity(dice.length()));
        }
        malloc.push(began.elapsed().as_secs_f64() * 1e9 / 20_000.0);
    }
    let space = arena.space();
    println!("  arena   {:8.0} ns a block", median(ours));
    println!("  malloc  {:8.0} ns a block", median(malloc));
    println!(
        "  {} blocks, {} free parts, largest {} MiB of {} MiB free",
        space.blocks,
        space.parts,
        space.largest >> 20,
        (space.capacity - space.set_aside) >> 20
    );
}

fn block(arena: &Arena, len: usize) -> Option<Block> {
    let mut filling = arena.alloc(len)?;
    filling.advance(len);
    filling.freeze().ok()
}

fn filling() {
    println!(
        "\nfilling a block and letting it go, GiB/s, beside a copy into memory that is there; medians of {ROUNDS}"
    );
    let arena = Arena::new(1 << 30).expect("memory");
    for size in SIZES {
        let from = vec![7_u8; size];
        let mut floor = vec![0_u8; size];
        let times = (1 << 30) / size;
        let (mut ours, mut copy) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let began = now();
            for _ in 0..times {
                let mut filling = arena.alloc(size).expect("room");
                filling.take_from(&from);
                black_box(filling.freeze().expect("full"));
            }
            ours.push(1.0 / began.elapsed().as_secs_f64());
            let began = now();
            for _ in 0..times {
                floor.copy_from_slice(black_box(&from));
                black_box(&mut floor);
            }
            copy.push(1.0 / began.elapsed().as_secs_f64());
        }
        let (ours, copy) = (median(ours), median(copy));
        println!(
            "  {:6} KiB   arena {ours:6.1}   copy {copy:6.1}   {:3.0} %",
            size >> 10,
            100.0 * ours / copy
        );
    }
}

fn threads() {
    println!("\nalloc, fill and free of 4 KiB by several threads, million blocks a second");
    for many in [1, 2, 4] {
        let arena = Arena::new(256 << 20).expect("memory");
        let began = now();
        std::thread::scope(|scope| {
            for _ in 0..many {
                scope.spawn(|| {
                    let from = [7; 4096];
                    for _ in 0..500_000 {
                        let mut filling = arena.alloc(4096).expect("room");
                        filling.take_from(&from);
                        black_box(filling.freeze().expect("full"));
                    }
                });
            }
        });
        println!("  {many} threads   {:6.2}", 0.5 * f64::from(many) / began.elapsed().as_secs_f64());
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn length(&mut self) -> usize {
        let low = 4096_u64 << self.roll(12);
        (low + self.roll(low)) as usize
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
