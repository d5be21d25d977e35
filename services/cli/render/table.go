package render

import (
	"io"
	"strings"
	"unicode/utf8"
)

// Table writes rows in aligned columns, two spaces apart. Colour a cell with Cell.Paint, so that the escape sequences
// do not count as width. The last column is not padded.
type Table struct {
	Style Style
	rows  [][]Cell
}

// Cell is one field of a table.
type Cell struct {
	Text  string
	Paint func(string) string // nil: as it is
}

// Header adds a row in bold.
func (t *Table) Header(names ...string) {
	row := make([]Cell, len(names))
	for i, name := range names {
		row[i] = Cell{Text: name, Paint: t.Style.Bold}
	}
	t.rows = append(t.rows, row)
}

// Row adds a row of plain cells.
func (t *Table) Row(texts ...string) {
	row := make([]Cell, len(texts))
	for i, text := range texts {
		row[i] = Cell{Text: text}
	}
	t.rows = append(t.rows, row)
}

// Cells adds a row.
func (t *Table) Cells(cells ...Cell) { t.rows = append(t.rows, cells) }

// WriteTo writes the table to w.
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, t.String())
	return int64(n), err
}

// String is the whole table, each row ended by a line break.
func (t *Table) String() string {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell.Text))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			text := cell.Text
			if cell.Paint != nil {
				text = cell.Paint(text)
			}
			line.WriteString(text)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell.Text)+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// Empty reports whether the table has no row yet.
func (t *Table) Empty() bool { return len(t.rows) == 0 }
