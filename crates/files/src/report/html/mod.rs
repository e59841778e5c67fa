//! A survey as one HTML page that needs nothing else: no script, no font, no image from elsewhere.
//!
//! Names of keys may be anything. They reach the page escaped twice: as one line of text, see [`line`](crate::text::line), and
//! then for HTML. The page allows no script at all by its own policy.

mod prefixes;
mod treemap;

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};

use keyferry_rdb::Kind;

use super::About;
use super::units::{bytes, checksum, count, share, time};
use crate::survey::{BigKey, Summary, Survey, Totals};
use crate::text::{line, short_line};

const STYLE: &str = include_str!("style.css");
/// Characters of a key in a table; the whole is there as a tooltip, up to what the survey keeps.
const KEY_WIDTH: usize = 120;
/// Databases and encodings in a table.
const MAX_ROWS: usize = 64;

/// Writes a survey as one page: totals, types, prefixes, the largest keys, expiries, databases.
///
/// # Errors
///
/// Those of `out`.
pub fn write_html(out: &mut impl Write, survey: &Survey, about: &About) -> io::Result<()> {
    let mut page = String::with_capacity(64 << 10);
    // Writing to a String cannot fail.
    let _ = write_page(&mut page, survey, about);
    out.write_all(page.as_bytes())
}

/// Text that is safe between tags and in quoted attributes.
struct Safe<T>(T);

impl<T: Display> Display for Safe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escaping<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '&' => self.0.write_str("&amp;"),
                    '<' => self.0.write_str("&lt;"),
                    '>' => self.0.write_str("&gt;"),
                    '"' => self.0.write_str("&quot;"),
                    '\'' => self.0.write_str("&#39;"),
                    c => self.0.write_char(c),
                })
            }
        }
        write!(Escaping(f), "{}", self.0)
    }
}

fn write_page(page: &mut String, survey: &Survey, about: &About) -> fmt::Result {
    let summary = survey.summary();
    let totals = summary.totals();
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<main>\n<header>\n<h1>{}</h1>\n",
        Safe(&about.input),
        Safe(&about.input)
    )?;
    write_about(page, summary, about)?;
    page.push_str("</header>\n");
    write_figures(page, survey, &totals)?;
    if totals.keys == 0 {
        page.push_str("<section><h2>No keys</h2><p>There is nothing to show: no key was found, or none was selected.</p></section>\n");
    } else {
        page.push_str("<div class=\"pair\">\n");
        write_types(page, summary, &totals)?;
        write_expiries(page, summary, &totals)?;
        page.push_str("</div>\n");
        if let Some(found) = survey.prefixes() {
            prefixes::write(page, found)?;
        }
        write_big_keys(page, &survey.big_keys())?;
        write_databases(page, summary, &totals)?;
    }
    write_fields(page, summary)?;
    page.push_str("<footer>Bytes are those of the file: names and serialized values. Names are escaped: \\xHH is a byte that is no text.</footer>\n</main>\n</body>\n</html>\n");
    Ok(())
}

fn write_about(page: &mut String, summary: &Summary, about: &About) -> fmt::Result {
    if let Some(format) = summary.format() {
        let checksum = checksum(summary.checksum());
        writeln!(page, "<p>{}, {checksum}</p>", Safe(format))?;
    }
    for note in about.notes() {
        writeln!(page, "<p class=\"note\">{}</p>", Safe(note))?;
    }
    Ok(())
}

fn write_figures(page: &mut String, survey: &Survey, totals: &Totals) -> fmt::Result {
    let summary = survey.summary();
    page.push_str("<div class=\"figures\">\n");
    let databases = summary.databases().len();
    let mut figures = vec![
        (count(totals.keys), "keys"),
        (bytes(totals.bytes), "in keys and values"),
        (count(totals.expiring), "keys expire"),
        (bytes(totals.largest), "largest key"),
        (count(databases as u64), if databases == 1 { "database" } else { "databases" }),
    ];
    let records = summary.records();
    for (n, what) in [
        (records.functions, "libraries of functions"),
        (records.module_data, "blocks of module data"),
        (records.hash_templates, "hash templates"),
        (records.empty_values, "empty values"),
    ] {
        if n > 0 {
            figures.push((count(n), what));
        }
    }
    for (figure, what) in figures {
        writeln!(page, "<div class=\"figure\"><b>{figure}</b><span>{what}</span></div>")?;
    }
    page.push_str("</div>\n");
    Ok(())
}

fn write_types(page: &mut String, summary: &Summary, totals: &Totals) -> fmt::Result {
    page.push_str("<section><h2>Types and encodings</h2>\n<div class=\"stack\">");
    let encodings = summary.encodings(None);
    let mut kinds: Vec<(Kind, u64)> = Vec::new();
    for (ty, one) in &encodings {
        match kinds.iter_mut().find(|(kind, _)| *kind == ty.kind()) {
            Some((_, sum)) => *sum += one.bytes,
            None => kinds.push((ty.kind(), one.bytes)),
        }
    }
    kinds.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
    for (kind, sum) in kinds {
        let percent = sum as f64 * 100.0 / totals.bytes.max(1) as f64;
        write!(
            page,
            "<i class=\"b{}\" style=\"width:{percent:.3}%\" title=\"{}: {}\"></i>",
            colour(kind),
            kind.name(),
            bytes(sum)
        )?;
    }
    page.push_str("</div>\n<div class=\"scroll\"><table><tr><th class=\"text\">type</th><th class=\"text\">encoding</th><th>keys</th><th>bytes</th><th>share</th><th>largest</th></tr>\n");
    for (ty, one) in encodings.iter().take(MAX_ROWS) {
        writeln!(
            page,
            "<tr><td class=\"text\"><span class=\"dot b{}\"></span>{}</td><td class=\"text\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            colour(ty.kind()),
            ty.kind().name(),
            ty.name(),
            count(one.keys),
            bytes(one.bytes),
            share(one.bytes, totals.bytes),
            bytes(one.largest)
        )?;
    }
    page.push_str("</table></div></section>\n");
    Ok(())
}

/// The class of a type's colour.
fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::String => "0",
        Kind::Hash => "1",
        Kind::List => "2",
        Kind::SortedSet => "3",
        Kind::Set => "4",
        Kind::Stream => "5",
        Kind::Array => "6",
        Kind::Module => "7",
        _ => "o",
    }
}

fn write_expiries(page: &mut String, summary: &Summary, totals: &Totals) -> fmt::Result {
    writeln!(
        page,
        "<section><h2>Expiry, seen from {}</h2>\n<div class=\"bars\">",
        time(summary.expiries().reference())
    )?;
    let never = ("never", totals.keys - totals.expiring);
    let spans = summary.expiries().spans().map(|span| (span.name, span.keys));
    let spans: Vec<_> = spans.chain([never]).collect();
    let most = spans.iter().map(|(_, keys)| *keys).max().unwrap_or(1).max(1);
    for (name, keys) in spans {
        let percent = keys as f64 * 100.0 / most as f64;
        writeln!(
            page,
            "<span>{name}</span><span class=\"bar\"><i style=\"width:{percent:.2}%\"></i></span><span class=\"n\">{}</span>",
            count(keys)
        )?;
    }
    page.push_str("</div></section>\n");
    Ok(())
}

fn write_big_keys(page: &mut String, keys: &[BigKey]) -> fmt::Result {
    if keys.is_empty() {
        return Ok(());
    }
    page.push_str("<section><h2>Largest keys</h2>\n<div class=\"scroll\"><table><tr><th class=\"text\">key</th><th>bytes</th><th class=\"text\">type</th><th>elements</th><th>largest element</th><th>database</th><th class=\"text\">expires</th></tr>\n");
    for key in keys {
        writeln!(
            page,
            "<tr><td class=\"key\" title=\"{}\">{}</td><td>{}</td><td class=\"text\"><span class=\"dot b{}\"></span>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"text\">{}</td></tr>",
            Safe(line(&key.key)),
            Safe(short_line(&key.key, KEY_WIDTH)),
            bytes(key.bytes),
            Kind::from_name(key.kind).map_or("o", colour),
            key.kind,
            count(key.elements),
            bytes(key.largest_element),
            key.db,
            key.expires_at.map_or("never".to_owned(), time)
        )?;
    }
    page.push_str("</table></div></section>\n");
    Ok(())
}

fn write_databases(page: &mut String, summary: &Summary, totals: &Totals) -> fmt::Result {
    let databases = summary.databases();
    if databases.len() < 2 {
        return Ok(());
    }
    page.push_str("<section><h2>Databases</h2>\n<div class=\"scroll\"><table><tr><th class=\"text\">database</th><th>keys</th><th>bytes</th><th>share</th><th>expire</th><th>largest</th></tr>\n");
    for (number, one) in databases.iter().take(MAX_ROWS) {
        writeln!(
            page,
            "<tr><td class=\"text\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            number.map_or("others".to_owned(), |number| number.to_string()),
            count(one.keys),
            bytes(one.bytes),
            share(one.bytes, totals.bytes),
            count(one.expiring),
            bytes(one.largest)
        )?;
    }
    page.push_str("</table></div>");
    if databases.len() > MAX_ROWS {
        write!(page, "<p>and {} more</p>", count((databases.len() - MAX_ROWS) as u64))?;
    }
    page.push_str("</section>\n");
    Ok(())
}

fn write_fields(page: &mut String, summary: &Summary) -> fmt::Result {
    if summary.fields().is_empty() {
        return Ok(());
    }
    page.push_str("<section><h2>What the file says of itself</h2>\n<div class=\"scroll\"><table>\n");
    for field in summary.fields() {
        writeln!(
            page,
            "<tr><td class=\"text\">{}</td><td class=\"key\">{}</td></tr>",
            Safe(&field.name),
            Safe(&field.value)
        )?;
    }
    page.push_str("</table></div></section>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_from_its_place() {
        let hostile = "<script>\"'&</script>";
        assert_eq!(Safe(hostile).to_string(), "&lt;script&gt;&quot;&#39;&amp;&lt;/script&gt;");
    }
}
