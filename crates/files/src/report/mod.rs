//! Surveys as text for people, as one HTML page, as data for machines; lists of keys.

mod about;
mod csv;
mod html;
mod text;
mod units;

pub use about::About;
pub use csv::MemoryCsv;
pub use html::write_html;
pub use text::{write_about, write_big_keys, write_expiring, write_prefixes, write_summary};
