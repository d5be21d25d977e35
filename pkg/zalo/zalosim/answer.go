package zalosim

import (
	"bytes"
	"fmt"
	"net/http"
)

// finish answers when its time has come, or does to the answer what the plan says.
func (s *Sim) finish(w http.ResponseWriter, r *http.Request, p plan, body []byte) {
	if !s.sleep(p.latency) {
		cut(w, nil)
		return
	}
	switch p.answer {
	case "", FaultNoMsgID:
		writeJSON(w, body)
	case FaultQuoted:
		writeJSON(w, quote(body))
	case FaultLostAnswer, FaultHang:
		select { // until the client gives up
		case <-r.Context().Done():
		case <-s.done:
		}
		cut(w, nil)
	case FaultResetBefore, FaultResetAfter:
		cut(w, nil)
	case FaultResetMidBody:
		cut(w, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:len(body)/2]))
	case FaultTruncated:
		writeJSON(w, body[:len(body)-9])
	case FaultHTML:
		w.Header().Set("Content-Type", "text/html")
		if p.status == http.StatusTooManyRequests || p.status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		w.WriteHeader(p.status)
		fmt.Fprintf(w, "<html><head><title>%d %s</title></head><body><center>nginx</center></body></html>\n", p.status, http.StatusText(p.status))
	case FaultRedirect:
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	}
}

// quote writes "error" as a string and, in a refusal, data as null: seen from Zalo's other hosts.
func quote(body []byte) []byte {
	const key = `{"error":`
	rest := body[len(key):]
	if rest[0] == '"' {
		return body
	}
	code, rest, _ := bytes.Cut(rest, []byte(","))
	return fmt.Appendf(nil, `{"error":"%s","data":null,%s`, code, rest)
}

// cut writes some bytes past the HTTP server and resets the connection.
func cut(w http.ResponseWriter, some []byte) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // closes the connection, too
	}
	conn.Write(some)
	if tcp, ok := conn.(interface{ SetLinger(int) error }); ok && some == nil {
		tcp.SetLinger(0) // RST instead of FIN; with bytes under way it could overtake them
	}
	conn.Close()
}
