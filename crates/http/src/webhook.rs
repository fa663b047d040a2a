//! Proves to a receiver that a message comes from us and is fresh: Standard Webhooks, symmetric scheme.
//!
//! The signature is `v1,` + base64(HMAC-SHA256(secret, "{id}.{timestamp}.{body}")), sent beside the message's id and its
//! time in seconds. A receiver accepts any one of several space-separated signatures, so that a secret can be rotated
//! without a gap, and refuses a message whose time is more than [`TOLERANCE_S`] away from its own clock.

use std::fmt;
use std::str::FromStr;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::digest::CtOutput;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Header with the message's id: stable over retries of the same message.
pub const ID_HEADER: &str = "webhook-id";
/// Header with the time of the attempt, in whole seconds since the Unix epoch.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// Header with one or more signatures, separated by spaces.
pub const SIGNATURE_HEADER: &str = "webhook-signature";
/// How far a message's time may be from the receiver's clock, in seconds, either way.
pub const TOLERANCE_S: i64 = 300;
/// Fewest bytes of a secret.
pub const SECRET_MIN_BYTES: usize = 24;
/// Most bytes of a secret.
pub const SECRET_MAX_BYTES: usize = 64;

const SECRET_PREFIX: &str = "whsec_";
const VERSION: &str = "v1";
/// Bytes of an HMAC-SHA256.
const TAG_BYTES: usize = 32;

type HmacSha256 = Hmac<Sha256>;

/// Why a text is no signing secret. The messages never repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text does not begin with `whsec_`.
    #[error("a signing secret begins with \"whsec_\"")]
    Prefix,
    /// What follows the prefix is not standard base64.
    #[error("a signing secret is standard base64 after \"whsec_\"")]
    Base64,
    /// Fewer than [`SECRET_MIN_BYTES`] or more than [`SECRET_MAX_BYTES`] bytes.
    #[error("a signing secret holds {SECRET_MIN_BYTES} to {SECRET_MAX_BYTES} bytes, this one holds {0}")]
    Length(usize),
}

/// Why a message was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A header is absent, given twice, or not visible ASCII.
    #[error("header {0} is missing or unreadable")]
    Header(&'static str),
    /// The id is empty or contains a full stop, which would let bytes move between id, time and body.
    #[error("the message id is empty or contains a full stop")]
    Id,
    /// The timestamp is not a plain whole number of seconds.
    #[error("the timestamp is not a whole number of seconds")]
    Timestamp,
    /// The message is older than the tolerance.
    #[error("the message is more than {TOLERANCE_S} s old")]
    TooOld,
    /// The message's time lies further in the future than the tolerance.
    #[error("the message's time is more than {TOLERANCE_S} s ahead")]
    TooNew,
    /// None of the signatures is this secret's.
    #[error("no signature matches")]
    Signature,
}

/// A shared signing secret. It can sign and verify, never be shown: [`fmt::Debug`] redacts it.
#[derive(Clone)]
pub struct Secret {
    /// Keyed once, so that signing a small message does not pay for the key schedule.
    keyed: HmacSha256,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(whsec_[redacted])")
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    /// Reads `whsec_<base64>`.
    fn from_str(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(SecretError::Prefix)?;
        let bytes = BASE64.decode(encoded).map_err(|_| SecretError::Base64)?;
        Self::from_bytes(&bytes)
    }
}

impl Secret {
    /// Takes the raw key.
    ///
    /// # Errors
    /// [`SecretError::Length`] outside [`SECRET_MIN_BYTES`]..=[`SECRET_MAX_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SecretError> {
        if !(SECRET_MIN_BYTES..=SECRET_MAX_BYTES).contains(&bytes.len()) {
            return Err(SecretError::Length(bytes.len()));
        }
        Self::keyed(bytes)
    }

    fn keyed(bytes: &[u8]) -> Result<Self, SecretError> {
        // HMAC takes keys of any length; the error exists for other MACs of the same trait.
        let keyed = HmacSha256::new_from_slice(bytes).map_err(|_| SecretError::Length(bytes.len()))?;
        Ok(Self { keyed })
    }

    /// The value of [`SIGNATURE_HEADER`] for this message.
    ///
    /// `id` has to be non-empty and free of full stops: a receiver refuses others ([`VerifyError::Id`]). `timestamp_s` is
    /// the time of this attempt in seconds since the Unix epoch.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let tag = self.tag(id, &timestamp_s.to_string(), body).into_bytes();
        let mut signature = String::with_capacity(VERSION.len() + 1 + TAG_BYTES.div_ceil(3) * 4);
        signature.push_str(VERSION);
        signature.push(',');
        BASE64.encode_string(tag, &mut signature);
        signature
    }

    /// Checks a message against this secret and the receiver's clock, both in seconds since the Unix epoch.
    ///
    /// # Errors
    /// [`VerifyError`] says what was wrong; a receiver should tell a stranger no more than "refused".
    pub fn verify(
        &self,
        id: &str,
        timestamp: &str,
        signatures: &str,
        body: &[u8],
        now_s: i64,
    ) -> Result<(), VerifyError> {
        if id.is_empty() || id.contains('.') {
            return Err(VerifyError::Id);
        }
        check_time(timestamp, now_s)?;
        let expected = self.tag(id, timestamp, body);
        // Signatures of other schemes and versions are skipped: the sender may serve newer receivers too.
        let matches = signatures
            .split(' ')
            .filter_map(|signature| signature.split_once(','))
            .filter(|(version, _)| *version == VERSION)
            .filter_map(|(_, encoded)| BASE64.decode(encoded).ok())
            .filter_map(|tag| <[u8; TAG_BYTES]>::try_from(tag).ok())
            .any(|tag| CtOutput::<HmacSha256>::new(tag.into()) == expected);
        if matches { Ok(()) } else { Err(VerifyError::Signature) }
    }

    /// [`Secret::verify`] with id, timestamp and signatures taken from the request's headers.
    ///
    /// # Errors
    /// As [`Secret::verify`], and [`VerifyError::Header`] for a missing, repeated or unreadable header.
    pub fn verify_headers(&self, headers: &HeaderMap, body: &[u8], now_s: i64) -> Result<(), VerifyError> {
        let id = the_header(headers, ID_HEADER)?;
        let timestamp = the_header(headers, TIMESTAMP_HEADER)?;
        let signatures = the_header(headers, SIGNATURE_HEADER)?;
        self.verify(id, timestamp, signatures, body, now_s)
    }

    fn tag(&self, id: &str, timestamp: &str, body: &[u8]) -> CtOutput<HmacSha256> {
        let mut mac = self.keyed.clone();
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        mac.finalize()
    }
}

/// The one value of header `name`.
///
/// # Errors
/// [`VerifyError::Header`] if it is missing, repeated or unreadable.
pub fn the_header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, VerifyError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| VerifyError::Header(name)),
        _ => Err(VerifyError::Header(name)),
    }
}

fn check_time(timestamp: &str, now_s: i64) -> Result<(), VerifyError> {
    // Digits alone: "+5" and "-0" parse as numbers too, and a signature covers the text as it was sent.
    if timestamp.is_empty() || !timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return Err(VerifyError::Timestamp);
    }
    let sent_s: i64 = timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
    let age_s = now_s.saturating_sub(sent_s);
    if age_s > TOLERANCE_S {
        Err(VerifyError::TooOld)
    } else if age_s < -TOLERANCE_S {
        Err(VerifyError::TooNew)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const SENT_S: i64 = 1_649_367_553;
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    fn secret() -> Secret {
        SECRET.parse().unwrap()
    }

    fn verify(signatures: &str, now_s: i64) -> Result<(), VerifyError> {
        secret().verify(ID, &SENT_S.to_string(), signatures, BODY, now_s)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_public_vectors_hold() {
        assert_eq!(secret().sign(ID, SENT_S, BODY), SIGNATURE);
        assert_eq!(verify(SIGNATURE, SENT_S), Ok(()));
        // The specification's own example has a secret shorter than the specification allows.
        let short = BASE64.decode("plJ3nmyCDGBKInavdOK15jsl").unwrap();
        assert_eq!(
            Secret::keyed(&short).unwrap().sign(
                "msg_loFOjxBNrRLzqYUf",
                1_731_705_121,
                br#"{"event_type":"ping","data":{"success":true}}"#
            ),
            "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
        );
    }

    #[test]
    fn the_reference_library_agrees_in_both_directions() {
        let reference = standardwebhooks::Webhook::new(SECRET).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let now_s = i64::try_from(now).unwrap();
        let ours = secret().sign(ID, now_s, BODY);
        let sent = headers(&[(ID_HEADER, ID), (TIMESTAMP_HEADER, &now_s.to_string()), (SIGNATURE_HEADER, &ours)]);
        reference.verify(BODY, &sent).unwrap();
        let theirs = reference.sign(ID, now_s, BODY).unwrap();
        assert_eq!(theirs, ours);
        secret().verify_headers(&sent, BODY, now_s).unwrap();
    }

    #[test]
    fn one_of_several_signatures_is_enough_and_others_are_skipped() {
        let other = "v1,tFtCZ5RDCPxzWQRWXWPgrCgE2frDBe9gjpbWQxnVfsQ=";
        assert_eq!(verify(&format!("v1a,xyz {other} {SIGNATURE} junk"), SENT_S), Ok(()));
        for refused in [other, "", " ", "v1,", &SIGNATURE[..12], &SIGNATURE[3..], &format!("v2{}", &SIGNATURE[2..])] {
            assert_eq!(verify(refused, SENT_S), Err(VerifyError::Signature), "{refused:?}");
        }
    }

    #[test]
    fn every_signed_part_matters() {
        let s = secret();
        let at = SENT_S.to_string();
        let wrong = Err(VerifyError::Signature);
        assert_eq!(s.verify("msg_other", &at, SIGNATURE, BODY, SENT_S), wrong);
        assert_eq!(s.verify(ID, &(SENT_S + 1).to_string(), SIGNATURE, BODY, SENT_S), wrong);
        assert_eq!(s.verify(ID, &at, SIGNATURE, b"{}", SENT_S), wrong);
        let stranger = Secret::from_bytes(&[7; 24]).unwrap();
        assert_eq!(stranger.verify(ID, &at, SIGNATURE, BODY, SENT_S), wrong);
    }

    #[test]
    fn the_tolerance_is_exact() {
        assert_eq!(verify(SIGNATURE, SENT_S + TOLERANCE_S), Ok(()));
        assert_eq!(verify(SIGNATURE, SENT_S + TOLERANCE_S + 1), Err(VerifyError::TooOld));
        assert_eq!(verify(SIGNATURE, SENT_S - TOLERANCE_S), Ok(()));
        assert_eq!(verify(SIGNATURE, SENT_S - TOLERANCE_S - 1), Err(VerifyError::TooNew));
    }

    #[test]
    fn odd_ids_and_times_are_refused() {
        let s = secret();
        for id in ["", "a.b"] {
            assert_eq!(s.verify(id, "5", SIGNATURE, BODY, 5), Err(VerifyError::Id));
        }
        for time in ["", "+5", "-5", "5.0", " 5", "99999999999999999999"] {
            assert_eq!(s.verify(ID, time, SIGNATURE, BODY, 5), Err(VerifyError::Timestamp), "{time:?}");
        }
    }

    #[test]
    fn a_missing_or_repeated_header_is_named() {
        let at = SENT_S.to_string();
        let all = [(ID_HEADER, ID), (TIMESTAMP_HEADER, at.as_str()), (SIGNATURE_HEADER, SIGNATURE)];
        for (i, (name, value)) in all.iter().enumerate() {
            let mut fewer = all.to_vec();
            fewer.remove(i);
            let missing = secret().verify_headers(&headers(&fewer), BODY, SENT_S);
            assert_eq!(missing, Err(VerifyError::Header(name)));
            let mut more = all.to_vec();
            more.push((name, value));
            let repeated = secret().verify_headers(&headers(&more), BODY, SENT_S);
            assert_eq!(repeated, Err(VerifyError::Header(name)));
        }
    }

    #[test]
    fn secrets_are_bounded_and_never_shown() {
        for length in [SECRET_MIN_BYTES, SECRET_MAX_BYTES] {
            let text = format!("whsec_{}", BASE64.encode(vec![1; length]));
            text.parse::<Secret>().unwrap();
        }
        for length in [0, SECRET_MIN_BYTES - 1, SECRET_MAX_BYTES + 1] {
            let text = format!("whsec_{}", BASE64.encode(vec![1; length]));
            assert_eq!(text.parse::<Secret>().unwrap_err(), SecretError::Length(length));
        }
        assert_eq!(SECRET[6..].parse::<Secret>().unwrap_err(), SecretError::Prefix);
        assert_eq!("whsec_!!".parse::<Secret>().unwrap_err(), SecretError::Base64);
        assert!(!format!("{:?}", secret()).contains("C2FV"));
    }
}
