//! Reads a catalogue to learn from: CSV or Parquet, told apart by its first bytes, with the columns that are named here.

use std::{
    fs::File,
    io::{Read, Seek},
    path::{Path, PathBuf},
};

use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};
use sluice_domain::Handling;
use sluice_goods::train::{Catalogue, Product};
use thiserror::Error;

/// Bytes of a catalogue file that is read.
const LARGEST: u64 = 1 << 30;
/// Products of a catalogue that is read.
const MOST: usize = 5_000_000;
/// Bytes of one field.
const LONGEST: usize = 10_000;
/// How a Parquet file begins.
const PARQUET: &[u8; 4] = b"PAR1";

/// The columns that are read, by their possible names, and whether there must be one. The order is that of [`Row`].
const COLUMNS: [(&[&str], bool); 5] = [
    (&["product_type", "title"], true),
    (&["package_size"], false),
    (&["manufacturer_id"], false),
    (&["department"], false),
    (&["handling"], true),
];
/// The fields of one product, as they are in the file; empty where there is nothing.
type Row = [String; COLUMNS.len()];

/// A catalogue can't be read.
#[derive(Debug, Error)]
pub(super) enum CatalogueError {
    #[error("{}: can't be read: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}: {what} are more than the {limit} that are read; split it", path.display())]
    TooMuch { path: PathBuf, what: String, limit: u64 },
    #[error("{}: not Parquet, though it begins like it: {error}", path.display())]
    Parquet { path: PathBuf, error: parquet::errors::ParquetError },
    #[error("{}: not CSV: {error}; a catalogue is a CSV file with a header, or a Parquet file", path.display())]
    Csv { path: PathBuf, error: csv::Error },
    #[error("{}: there is no column {wanted}; the columns are {found}", path.display())]
    NoColumn { path: PathBuf, wanted: String, found: String },
    #[error("{}: row {row}: {column} is {found:?}; expected {expected}", path.display())]
    Value { path: PathBuf, row: usize, column: String, found: String, expected: String },
}

/// Where the columns are in a file.
struct Places([Option<usize>; COLUMNS.len()]);

impl Places {
    fn find(path: &Path, found: &[String]) -> Result<Self, CatalogueError> {
        let mut places = [None; COLUMNS.len()];
        for (place, (names, needed)) in places.iter_mut().zip(COLUMNS) {
            *place = found.iter().position(|name| names.contains(&name.trim().to_ascii_lowercase().as_str()));
            if place.is_none() && needed {
                return Err(CatalogueError::NoColumn {
                    path: path.to_owned(),
                    wanted: names.join(" or "),
                    found: found.join(", "),
                });
            }
        }
        Ok(Self(places))
    }
}

/// Reads the products of a catalogue. Those without a type are left out: nothing can be learned from them.
pub(super) fn read(path: &Path) -> Result<Catalogue, CatalogueError> {
    let failed = |error| CatalogueError::Read { path: path.to_owned(), error };
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > LARGEST {
        let what = format!("{length} bytes");
        return Err(CatalogueError::TooMuch { path: path.to_owned(), what, limit: LARGEST });
    }
    let mut begin = Vec::new();
    (&file).take(4).read_to_end(&mut begin).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let mut catalogue = Catalogue::default();
    let mut take = |number: usize, row: Row| {
        if catalogue.products.len() == MOST {
            let what = "its products".to_owned();
            return Err(CatalogueError::TooMuch { path: path.to_owned(), what, limit: MOST as u64 });
        }
        catalogue.products.extend(product(path, number, row)?);
        Ok(())
    };
    if begin == PARQUET {
        read_parquet(path, file, &mut take)?
    } else {
        read_csv(path, file, &mut take)?
    }
    Ok(catalogue)
}

type Take<'a> = &'a mut dyn FnMut(usize, Row) -> Result<(), CatalogueError>;

fn read_csv(path: &Path, file: File, take: Take<'_>) -> Result<(), CatalogueError> {
    let failed = |error| CatalogueError::Csv { path: path.to_owned(), error };
    let mut reader = csv::Reader::from_reader(file);
    let names: Vec<String> = reader.headers().map_err(failed)?.iter().map(str::to_owned).collect();
    let places = Places::find(path, &names)?;
    for (number, record) in (2..).zip(reader.records()) {
        let record = record.map_err(failed)?;
        let field = |place: Option<usize>| place.and_then(|place| record.get(place)).unwrap_or_default().to_owned();
        take(number, places.0.map(field))?;
    }
    Ok(())
}

fn read_parquet(path: &Path, file: File, take: Take<'_>) -> Result<(), CatalogueError> {
    let failed = |error| CatalogueError::Parquet { path: path.to_owned(), error };
    let reader = SerializedFileReader::new(file).map_err(failed)?;
    let schema = reader.metadata().file_metadata().schema();
    let names: Vec<String> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
    let places = Places::find(path, &names)?;
    for (number, record) in (1..).zip(reader.get_row_iter(None).map_err(failed)?) {
        let record = record.map_err(failed)?;
        let fields: Vec<&Field> = record.get_column_iter().map(|(_, field)| field).collect();
        let text = |place: Option<usize>| match place.and_then(|place| fields.get(place)) {
            None | Some(Field::Null) => String::new(),
            Some(Field::Str(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        take(number, places.0.map(text))?;
    }
    Ok(())
}

/// The product of a row; none if it has no type.
fn product(path: &Path, row: usize, fields: Row) -> Result<Option<Product>, CatalogueError> {
    let wrong = |column: &str, found: &str, expected: String| {
        let (column, found) = (column.to_owned(), found.chars().take(40).collect());
        Err(CatalogueError::Value { path: path.to_owned(), row, column, found, expected })
    };
    for (field, (names, _)) in fields.iter().zip(COLUMNS) {
        if field.len() > LONGEST {
            return wrong(&names.join(" or "), field, format!("at most {LONGEST} bytes"));
        }
    }
    let [product_type, package_size, manufacturer, department, handling] = fields;
    if product_type.trim().is_empty() {
        return Ok(None);
    }
    let Some(handling) = Handling::from_name(handling.trim()) else {
        return wrong("handling", &handling, format!("one of {}", Handling::ALL.map(Handling::name).join(", ")));
    };
    let known = |text: String| Some(text).filter(|text| !text.trim().is_empty());
    let (package_size, manufacturer, department) = (known(package_size), known(manufacturer), known(department));
    Ok(Some(Product { product_type, package_size, manufacturer, department, handling }))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read_text(text: &str) -> Result<Catalogue, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn csv_is_read_by_the_names_of_its_columns() {
        let text =
            "Handling,title,department,extra\nfrozen,\"PIZZA, LARGE\",GROCERY,1\nchilled,,DELI,2\nchilled,Brie,,3\n";
        let products = read_text(text).unwrap().products;
        assert_eq!(products.len(), 2);
        assert_eq!((products[0].product_type.as_str(), products[0].handling), ("PIZZA, LARGE", Handling::Frozen));
        assert_eq!((products[0].department.as_deref(), products[1].department.as_deref()), (Some("GROCERY"), None));
        assert_eq!((&products[0].package_size, &products[0].manufacturer), (&None, &None));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = read_text("product_type,shelf\nPIZZA,3\n").unwrap_err();
        assert!(error.contains("no column handling") && error.contains("product_type, shelf"), "{error}");
        let error = read_text("title,handling\nBrie,chilled\nPIZZA,hot\n").unwrap_err();
        assert!(error.contains("row 3: handling is \"hot\"") && error.contains("frozen"), "{error}");
        let error = read_text("title,handling\nBrie\n").unwrap_err();
        assert!(error.contains("not CSV"), "{error}");
        let error = read_text("PAR1 and nothing else").unwrap_err();
        assert!(error.contains("not Parquet"), "{error}");
        let error = read(Path::new("/nowhere/x.csv")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/x.csv: can't be read"), "{error}");
        let error = read_text(&format!("title,handling\n{},frozen\n", "x".repeat(LONGEST + 1))).unwrap_err();
        assert!(error.contains("at most 10000 bytes"), "{error}");
    }

    #[test]
    fn the_kept_products_are_read_from_parquet() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/products.parquet");
        let products = read(&path).unwrap().products;
        assert_eq!(products.len(), 91_803);
        let ice = products.iter().find(|product| product.product_type == "ICE - CRUSHED/CUBED").unwrap();
        assert_eq!((ice.handling, ice.department.as_deref()), (Handling::Frozen, Some("GROCERY")));
        assert_eq!((ice.title(), ice.manufacturer.as_deref()), ("ICE - CRUSHED/CUBED | 22 LB".to_owned(), Some("2")));
    }
}
