//! Every form on the wire: what a real engine published, what older ones do, what nobody should, and round trips.

use blocks::{EngineHash, Event, Tier, TokensHash};
use events::codec::{Batch, Content, Extras, Said, Stored, compact, decode, stock};
use events::translate::Translator;
use proptest::prelude::*;
use serde_json::Value;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn capture() -> Vec<Value> {
    include_str!("vllm_0_32_capture.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A payload from bytes and shorthand: texts and small numbers as MessagePack writes them.
struct Pack(Vec<u8>);

impl Pack {
    fn array(mut self, count: u8) -> Self {
        self.0.push(0x90 | count);
        self
    }

    fn text(mut self, text: &str) -> Self {
        self.0.push(0xa0 | text.len() as u8);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

fn batch() -> Pack {
    Pack(Vec::new()).array(2).raw(&[0x01])
}

fn only(payload: &[u8]) -> Said {
    let mut said = decode(payload).unwrap().said;
    assert_eq!(said.len(), 1);
    said.remove(0)
}

#[test]
fn every_captured_frame_decodes_to_what_it_says() {
    let mut frames = 0;
    for line in capture().iter().filter(|line| line["kind"] == "pub" || line["kind"] == "replay") {
        let payload = hex(line["frames"].as_array().unwrap().last().unwrap().as_str().unwrap());
        let batch = decode(&payload).unwrap();
        let expected = line["decoded"][1].as_array().unwrap();
        assert_eq!(batch.said.len(), expected.len());
        assert_eq!((batch.timestamp, batch.rank), (line["decoded"][0].as_f64().unwrap(), Some(0)));
        for (said, expected) in batch.said.iter().zip(expected) {
            let hashes: Vec<u64> = expected["block_hashes"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|hash| hash.as_u64().unwrap())
                .collect();
            match said {
                Said::Stored(stored) => {
                    assert_eq!(expected["type"], "BlockStored");
                    assert_eq!(stored.hashes.iter().map(|hash| hash.0).collect::<Vec<_>>(), hashes);
                    assert_eq!(stored.parent.map(|hash| hash.0), expected["parent_block_hash"].as_u64());
                    assert_eq!(stored.lora_name.as_deref(), expected["lora_name"].as_str());
                    assert_eq!(stored.medium.as_deref(), expected["medium"].as_str());
                    let Content::Tokens(ids) = &stored.content else { panic!("token ids were published") };
                    let expected: Vec<u64> = expected["token_ids"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|id| id.as_u64().unwrap())
                        .collect();
                    assert_eq!(ids.iter().map(|id| u64::from(*id)).collect::<Vec<_>>(), expected);
                }
                Said::Removed { hashes: found, .. } => {
                    assert_eq!(expected["type"], "BlockRemoved");
                    assert_eq!(found.iter().map(|hash| hash.0).collect::<Vec<_>>(), hashes);
                }
                Said::Cleared => assert_eq!(expected["type"], "AllBlocksCleared"),
                Said::Unknown => panic!("{expected}"),
            }
        }
        // Said again in the stock form, it says the same.
        assert_eq!(decode(&stock(&batch)).unwrap(), batch);
        frames += 1;
    }
    assert_eq!(frames, 254);
}

#[test]
fn events_may_be_arrays_and_their_last_fields_may_be_missing() {
    // [ts, [["BlockStored", [1, 2], nil, [5, 6, 7, 8], 2]]]
    let short = batch()
        .array(1)
        .array(5)
        .text("BlockStored")
        .array(2)
        .raw(&[1, 2, 0xc0])
        .array(4)
        .raw(&[5, 6, 7, 8, 2]);
    let Said::Stored(stored) = only(&short.0) else { panic!() };
    assert_eq!((stored.hashes.len(), stored.parent, stored.block_size), (2, None, 2));
    assert_eq!(stored.content, Content::Tokens(vec![5, 6, 7, 8]));
    // ["BlockRemoved", [-1]] and ["AllBlocksCleared"], and a bare tag
    let removed = batch().array(1).array(2).text("BlockRemoved").array(1).raw(&[0xff]);
    let Said::Removed { hashes, medium, .. } = only(&removed.0) else { panic!() };
    assert_eq!((hashes, medium), (vec![EngineHash(u64::MAX)], None));
    assert_eq!(only(&batch().array(1).array(1).text("AllBlocksCleared").0), Said::Cleared);
    assert_eq!(only(&batch().array(1).text("AllBlocksCleared").0), Said::Cleared);
}

#[test]
fn older_arrays_carry_the_salt_where_the_adapter_stands() {
    let event =
        batch().array(1).array(8).text("BlockStored").array(1).raw(&[1, 0xc0]).array(2).raw(&[5, 6, 2, 0xc0]);
    let event = event.text("GPU").raw(&[0x81]).text("cache_salt").text("t");
    let Said::Stored(stored) = only(&event.0) else { panic!() };
    assert_eq!((stored.cache_salt.as_deref(), stored.lora_name), (Some("t"), None));
}

#[test]
fn hashes_may_be_bytes_and_name_the_same_block_as_the_number_in_them() {
    let mut long = vec![0xc4, 32];
    long.extend([7; 24]);
    long.extend(0x0102_0304_0506_0708_u64.to_be_bytes());
    let event = batch().array(1).array(2).text("BlockRemoved").array(1).raw(&long);
    let Said::Removed { hashes, .. } = only(&event.0) else { panic!() };
    assert_eq!(hashes, [EngineHash(0x0102_0304_0506_0708)]);
}

#[test]
fn pairs_of_tokens_are_windows_that_overlap_by_one() {
    let pairs = Stored {
        hashes: vec![EngineHash(1), EngineHash(2)],
        content: Content::Pairs((10..19).collect()),
        block_size: 4,
        ..Stored::default()
    };
    let batch = Batch {
        timestamp: 1.5,
        said: vec![Said::Stored(Box::new(pairs))],
        rank: None,
        epoch: None,
        state: None,
    };
    let decoded = decode(&stock(&batch)).unwrap();
    assert_eq!(decoded, batch);
    let event = Translator::default().translate(decoded.said[0].clone(), |_| {}).unwrap();
    let Event::Stored(stored) = event else { panic!() };
    let hasher = blocks::Hasher::new(blocks::BlockSize::new(4).unwrap(), blocks::Seed::PLAIN)
        .shaped(blocks::Shape::Eagle);
    let expected = hasher.tokens_hashes(&(10..19).collect::<Vec<_>>());
    assert_eq!(stored.blocks.iter().map(|block| block.tokens).collect::<Vec<_>>(), expected);
}

#[test]
fn the_salt_of_a_first_block_is_inherited_by_those_that_follow() {
    let run = |hash: u64, parent: Option<u64>, tokens: [u32; 2], word: Option<&str>| {
        let words = word.map(|word| vec![word.to_owned()]).unwrap_or_default();
        Said::Stored(Box::new(Stored {
            hashes: vec![EngineHash(hash)],
            parent: parent.map(EngineHash),
            content: Content::Tokens(tokens.to_vec()),
            block_size: 2,
            extras: vec![Extras { words, media: Vec::new() }],
            ..Stored::default()
        }))
    };
    let hash_of = |salt: Option<&str>, tokens: [u32; 2]| {
        blocks::Hasher::new(blocks::BlockSize::new(2).unwrap(), blocks::Seed::of(None, salt))
            .tokens_hashes(&tokens)[0]
    };
    let mut translator = Translator::default();
    let mut tokens = |said| match translator.translate(said, |_| {}) {
        Some(Event::Stored(stored)) => stored.blocks[0].tokens,
        other => panic!("{other:?}"),
    };
    assert_eq!(tokens(run(1, None, [1, 2], Some("tenant-a"))), hash_of(Some("tenant-a"), [1, 2]));
    assert_eq!(tokens(run(2, Some(1), [3, 4], None)), hash_of(Some("tenant-a"), [3, 4]));
    assert_eq!(tokens(run(3, None, [1, 2], None)), hash_of(None, [1, 2]));
    assert_eq!(tokens(run(4, Some(3), [3, 4], None)), hash_of(None, [3, 4]));
}

#[test]
fn unknown_words_are_counted_and_never_fatal() {
    let mut translator = Translator::default();
    let unknown = batch().array(1).raw(&[0x82]).text("type").text("Rewound").text("x").array(1).raw(&[0xc0]);
    assert_eq!(translator.translate(only(&unknown.0), |_| {}), None);
    let removed = Said::Removed { hashes: vec![EngineHash(1)], medium: Some("TAPE".to_owned()), group: None };
    let event = translator.translate(removed, |_| {}).unwrap();
    assert_eq!(event, Event::Removed { blocks: vec![EngineHash(1)], tier: Tier::Store });
    assert_eq!((translator.counts.unknown_events, translator.counts.unknown_media), (1, 1));
}

#[test]
fn a_window_is_no_whole_prefix() {
    let stored = |kind: &str, group| Stored {
        hashes: vec![EngineHash(1)],
        content: Content::Tokens(vec![1, 2]),
        block_size: 2,
        kind: Some(kind.to_owned()),
        group: Some(group),
        ..Stored::default()
    };
    let mut translator = Translator::default();
    assert!(translator.translate(Said::Stored(Box::new(stored("full_attention", 0))), |_| {}).is_some());
    assert!(translator.translate(Said::Stored(Box::new(stored("sliding_window", 1))), |_| {}).is_none());
    let removed = |group| Said::Removed { hashes: vec![EngineHash(1)], medium: None, group: Some(group) };
    assert!(translator.translate(removed(1), |_| {}).is_none());
    assert!(translator.translate(removed(0), |_| {}).is_some());
}

#[test]
fn absurd_lengths_are_refused_before_anything_is_reserved() {
    let cases: [&[u8]; 7] = [
        &[],
        &[0x92, 0x01],
        &[0x92, 0x01, 0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0x92, 0x01, 0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0x92, 0x01, 0x91, 0xc6, 0xff, 0xff, 0xff, 0xff],
        &[0xc1],
        &[0x93, 0x01, 0x90, 0x91, 0x91, 0x91],
    ];
    for case in cases {
        assert!(decode(case).is_err(), "{case:?}");
    }
    let deep: Vec<u8> = [0x93, 0x01, 0x90].into_iter().chain(std::iter::repeat_n(0x91, 100_000)).collect();
    assert!(decode(&deep).is_err());
}

/// Found by fuzzing: what stood behind an empty list of tokens was taken for the list's first pair.
#[test]
fn no_tokens_are_no_pairs_whatever_follows() {
    let event = batch().array(2).array(4).text("BlockStored").array(1).raw(&[1, 0xc0]).array(0);
    let event = event.array(2).text("BlockRemoved").array(1).raw(&[1]);
    let said = decode(&event.0).unwrap().said;
    let Said::Stored(stored) = &said[0] else { panic!() };
    assert_eq!(stored.content, Content::Tokens(vec![]));
    assert_eq!(said[1], Said::Removed { hashes: vec![EngineHash(1)], medium: None, group: None });
}

/// Found by fuzzing: a list of extras that was longer than its blocks could be read, and not said again.
#[test]
fn extras_of_blocks_that_are_not_there_are_left_out() {
    let extras = |words: &[&str]| {
        let event = batch().array(1).raw(&[0x83]).text("type").text("BlockStored").text("extra_keys");
        let event =
            words.iter().fold(event.array(words.len() as u8), |event, word| event.array(1).text(word));
        let Said::Stored(stored) = only(&event.text("block_hashes").array(1).raw(&[1]).0) else { panic!() };
        stored.extras.iter().map(|extra| extra.words.concat()).collect::<Vec<_>>()
    };
    assert_eq!(extras(&["a", "b"]), ["a"]);
    assert_eq!(extras(&["a"]), ["a"]);
}

fn said() -> impl Strategy<Value = Said> {
    let hashes = || proptest::collection::vec(any::<u64>().prop_map(EngineHash), 0..5);
    let medium =
        || proptest::option::of(prop_oneof![Just("GPU".to_owned()), Just("CPU".to_owned()), ".{0,300}"]);
    let words = proptest::collection::vec("[a-z]{1,8}", 0..3);
    let media = proptest::collection::vec("[0-9a-f]{16}", 0..2);
    let extras = proptest::collection::vec((words, media), 0..4)
        .prop_map(|all| all.into_iter().map(|(words, media)| Extras { words, media }).collect::<Vec<_>>());
    let content = prop_oneof![
        proptest::collection::vec(any::<u32>(), 0..80).prop_map(Content::Tokens),
        proptest::collection::vec(any::<u64>().prop_map(TokensHash), 0..5).prop_map(Content::Hashes),
    ];
    let stored = (
        hashes(),
        proptest::option::of(any::<u64>()),
        content,
        any::<u32>(),
        medium(),
        extras,
        any::<Option<u32>>(),
    );
    prop_oneof![
        6 => stored.prop_map(|(hashes, parent, content, block_size, medium, mut extras, group)| {
            // One entry a block is written, and empty ones at the end are not read back.
            extras.truncate(hashes.len());
            while extras.last() == Some(&Extras::default()) {
                extras.pop();
            }
            let parent = parent.map(EngineHash);
            let kind = group.map(|_| "full_attention".to_owned());
            Said::Stored(Box::new(Stored { hashes, parent, content, block_size, medium, extras, group, kind, ..Stored::default() }))
        }),
        3 => (hashes(), medium(), any::<Option<u32>>()).prop_map(|(hashes, medium, group)| Said::Removed { hashes, medium, group }),
        1 => Just(Said::Cleared),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_forms_say_what_was_meant(
        said in proptest::collection::vec(said(), 0..6),
        timestamp in 0.0..4e9_f64,
        rank in any::<Option<u32>>(),
    ) {
        let batch = Batch { timestamp, said, rank, epoch: None, state: None };
        prop_assert_eq!(&decode(&stock(&batch)).unwrap(), &batch);
        prop_assert_eq!(&decode(&compact(&batch)).unwrap(), &batch);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn no_damage_to_a_real_frame_makes_it_panic(at in 0_usize..600, with: u8, cut in 0_usize..700) {
        let line = capture().into_iter().find(|line| line["kind"] == "pub").unwrap();
        let mut payload = hex(line["frames"][2].as_str().unwrap());
        let at = at % payload.len();
        payload[at] = with;
        payload.truncate(cut.max(1));
        if let Ok(batch) = decode(&payload) {
            let mut translator = Translator::default();
            for said in batch.said {
                let _ = translator.translate(said, |_| {});
            }
        }
    }
}
