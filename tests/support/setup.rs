//! Configuration files, written as an operator would.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

/// Signs everything that goes to carriers.
pub const SECRET: &str = "whsec_c2x1aWNlLXRlc3RzLXNpZ25pbmctc2VjcmV0LTAx";
/// Signs what carriers tell.
pub const EVENTS_SECRET: &str = "whsec_c2x1aWNlLXRlc3RzLWV2ZW50cy1zZWNyZXQtMDEu";
/// The operator's key of a setup that has one.
pub const OPERATOR_KEY: &str = "operators-key-2b90";
/// Every handling group.
pub const ALL: &[&str] = &["chilled", "ambient", "frozen", "age_restricted", "hazmat_check", "live_plant"];

/// A `[[carrier]]`.
#[derive(Debug, Clone)]
pub struct Carrier {
    pub id: &'static str,
    pub handling: &'static [&'static str],
    pub idempotent: bool,
    /// Further lines.
    pub more: &'static str,
    /// How it really behaves, in the words of `sluice carrier-sim`.
    pub behaviour: &'static str,
}

/// A carrier that takes everything at once and remembers its answers.
pub const GOOD: Carrier = Carrier { id: "good", handling: ALL, idempotent: true, more: "", behaviour: "" };

/// A configuration: what differs from the defaults.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Lines of the top level, besides the address and the folder.
    pub top: String,
    /// Ids and API keys.
    pub merchants: Vec<(String, String)>,
    /// Further lines of the first merchant.
    pub first_merchant: String,
    pub carriers: Vec<Carrier>,
    /// Milliseconds from one event that simulated carriers tell of a shipment to the next; they tell nothing if absent.
    pub tells: Option<u32>,
}

impl Setup {
    /// Merchants m-1 and m-2 with the keys key-1 and key-2, and these carriers. The journal's files are small.
    pub fn new(carriers: &[Carrier]) -> Self {
        Self { top: "segment_mb = 40\n".to_owned(), ..Self::with_defaults(carriers) }
    }

    /// The same with every default.
    pub fn with_defaults(carriers: &[Carrier]) -> Self {
        let merchant = |n| (format!("m-{n}"), format!("key-{n}"));
        let (top, merchants, first_merchant) = (String::new(), [1, 2].map(merchant).into(), String::new());
        Self { top, merchants, first_merchant, carriers: carriers.to_vec(), tells: None }
    }

    /// With further lines of the top level.
    pub fn with(mut self, top: &str) -> Self {
        self.top += top;
        self
    }

    /// The file. Carriers are reached at `{carriers}/carriers/{id}/manifests`.
    pub fn text(&self, listen: SocketAddr, data_dir: &Path, carriers: &str) -> String {
        let mut text = format!("listen = \"{listen}\"\ndata_dir = {:?}\n{}", data_dir.display().to_string(), self.top);
        for (number, (id, key)) in self.merchants.iter().enumerate() {
            let more = if number == 0 { self.first_merchant.as_str() } else { "" };
            let _ = write!(text, "\n[[merchant]]\nid = {id:?}\napi_key = {key:?}\n{more}");
        }
        for Carrier { id, handling, idempotent, more, .. } in &self.carriers {
            let voids = if more.contains("voids = ") { "" } else { "voids = true\n" };
            let _ = write!(
                text,
                "\n[[carrier]]\nid = {id:?}\nurl = \"{carriers}/carriers/{id}/manifests\"\nsecret = {SECRET:?}\n\
                 events_secret = {EVENTS_SECRET:?}\nidempotent = {idempotent}\n{voids}returns = true\nhandling = {handling:?}\n{more}\n"
            );
        }
        text
    }
}
