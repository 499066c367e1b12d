//! Conversations: users who share a system prompt, say something, read the answer, and go on.

use crate::random::Random;

/// How a load of conversations is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Users, each with one conversation after another.
    pub users: usize,
    /// Turns of a conversation.
    pub turns: usize,
    /// System prompts; each user has one of them.
    pub systems: usize,
    /// Words of a system prompt.
    pub system_words: usize,
    /// Words that a user says in a turn, on average.
    pub turn_words: usize,
    /// Tokens of an answer.
    pub answer_tokens: usize,
    /// Makes the story.
    pub seed: u64,
}

/// One user's side of a conversation.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// What the assistant is told.
    pub system: String,
    /// What the user says, turn by turn.
    pub turns: Vec<String>,
    /// Pauses before each turn, as a part of the mean pause.
    pub pauses: Vec<f64>,
}

const WORDS: [&str; 40] = [
    "please", "show", "me", "the", "order", "that", "came", "last", "week", "and", "tell", "why", "it",
    "was", "late", "because", "our", "customer", "asks", "for", "a", "refund", "of", "every", "item", "in",
    "it", "with", "the", "terms", "from", "this", "contract", "or", "another", "city", "where", "rain",
    "fell", "again",
];

/// The conversations of a load, one a user.
pub fn conversations(settings: &Settings) -> Vec<Conversation> {
    let mut random = Random::new(settings.seed);
    let systems: Vec<String> = (0..settings.systems.max(1))
        .map(|i| format!("You are assistant {i}. {}", words(&mut random, settings.system_words)))
        .collect();
    let one = |user: usize| {
        let mut random = Random::new(settings.seed ^ (user as u64 + 1) << 20);
        let turn = |_| {
            let count = random.around(settings.turn_words as f64).ceil().max(1.0) as usize;
            words(&mut random, count)
        };
        let turns = (0..settings.turns).map(turn).collect();
        let pauses = (0..settings.turns).map(|_| random.around(1.0)).collect();
        Conversation { system: systems[user % systems.len()].clone(), turns, pauses }
    };
    (0..settings.users).map(one).collect()
}

fn words(random: &mut Random, count: usize) -> String {
    let words: Vec<&str> = (0..count).map(|_| WORDS[random.below(WORDS.len() as u64) as usize]).collect();
    words.join(" ")
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            users: 24,
            turns: 5,
            systems: 4,
            system_words: 500,
            turn_words: 60,
            answer_tokens: 96,
            seed: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_tells_the_same_story_and_users_differ() {
        let settings = Settings::default();
        let (a, b) = (conversations(&settings), conversations(&settings));
        assert_eq!(a[3].turns, b[3].turns);
        assert_ne!(a[3].turns, a[4].turns);
        assert_eq!(a[0].system, a[4].system);
        assert_ne!(a[0].system, a[1].system);
    }
}
