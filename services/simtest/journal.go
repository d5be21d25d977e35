package simtest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// journalSize bounds what a failed seed prints.
const journalSize = 400

// journal keeps the last lines of what happened and of the senders' warnings, with virtual times.
type journal struct {
	begin time.Time
	mu    sync.Mutex // guards lines
	lines []string
}

func (j *journal) write(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines) == journalSize {
		j.lines = append(j.lines[:0], j.lines[1:]...)
	}
	since := time.Since(j.begin)
	j.lines = append(j.lines, fmt.Sprintf("day %d %s  ", since/(24*time.Hour), time.Now().UTC().Format("15:04:05.000"))+fmt.Sprintf(format, args...))
}

func (j *journal) logger(name string) *slog.Logger {
	return slog.New(&journalHandler{j: j, name: name})
}

// journalHandler lets warnings and errors through.
type journalHandler struct {
	j     *journal
	name  string
	attrs string
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	text := h.attrs
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	h.j.write("%s: %s%s", h.name, r.Message, text)
	return nil
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	for _, a := range attrs {
		next.attrs += " " + a.String()
	}
	return &next
}

func (h *journalHandler) WithGroup(string) slog.Handler { return h }
