//! Columns, as Go's `text/tabwriter` aligns them.

use super::quote::columns;

/// Least width of a column with its padding.
const MINIMUM_WIDTH: usize = 10;
/// Blanks after the longest cell of a column.
const PADDING: usize = 3;

/// Aligns lines of cells that are ended by tabs, with Docker's widths.
pub(crate) fn align(text: &str) -> String {
    align_with(text, MINIMUM_WIDTH, PADDING)
}

/// Aligns lines of cells that are ended by tabs.
///
/// A column is a block of consecutive lines that have a tab-ended cell at that place; the text
/// after a line's last tab belongs to no column.
pub(crate) fn align_with(text: &str, minimum: usize, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text
        .split('\n')
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    let most = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..most {
        let mut start = 0;
        while start < lines.len() {
            if widths[start].len() <= column {
                start += 1;
                continue;
            }
            let end = (start..lines.len())
                .find(|line| widths[*line].len() <= column)
                .unwrap_or(lines.len());
            let width = (start..end)
                .map(|line| columns(lines[line][column]) + padding)
                .max()
                .unwrap_or(0)
                .max(minimum);
            for line in &mut widths[start..end] {
                line[column] = width;
            }
            start = end;
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (number, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if number > 0 {
            out.push('\n');
        }
        for (column, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(column) {
                let blanks = width.saturating_sub(columns(cell));
                out.extend(std::iter::repeat_n(' ', blanks));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        assert_eq!(
            align("ID\tNAMES\tX\na23456789012\tn…\ty\n"),
            "ID             NAMES     X\na23456789012   n…        y\n"
        );
    }

    #[test]
    fn a_column_ends_where_a_line_lacks_the_cell() {
        assert_eq!(
            align_with("a\tb\nlonger cell\tc\nno cell\na\tb", 0, 1),
            "a           b\nlonger cell c\nno cell\na b"
        );
    }

    #[test]
    fn empty_last_cell_leaves_its_blanks() {
        assert_eq!(align("A\tB\nx\t\n"), "A         B\nx         \n");
    }
}
