//! The signature of a webhook, as the Standard Webhooks have it and the OpenAI SDK's `webhooks.unwrap` verifies it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac::{HMAC_SHA256, Key, sign};

/// What a secret that is written in base 64 begins with.
const PREFIX: &str = "whsec_";

/// What both sides know.
pub(super) struct Secret(Key);

impl Secret {
    /// From the line of a file.
    ///
    /// # Errors
    /// What is wrong with it; never the secret itself.
    pub(super) fn read(line: &str) -> Result<Self, String> {
        let bytes = match line.strip_prefix(PREFIX) {
            Some(coded) => {
                STANDARD.decode(coded).map_err(|_| format!("what follows {PREFIX} is not base 64"))?
            }
            None => line.as_bytes().to_vec(),
        };
        if bytes.len() < 16 {
            return Err(format!("found {} bytes; allowed are 16 or more", bytes.len()));
        }
        Ok(Self(Key::new(HMAC_SHA256, &bytes)))
    }

    /// The header `webhook-signature` for a message.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let signed = sign(&self.0, format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(signed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standards_own_example() {
        let secret = Secret::read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_is_none_is_refused_without_showing_it() {
        for (line, words) in
            [("whsec_???", "base 64"), ("short", "16 or more"), ("whsec_c2hvcnQ=", "5 bytes")]
        {
            let Err(error) = Secret::read(line) else { panic!("{line} is taken") };
            assert!(error.contains(words) && !error.contains("short"), "{error}");
        }
    }
}
