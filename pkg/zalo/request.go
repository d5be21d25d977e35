package zalo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

type sendJSON struct {
	Phone        string            `json:"phone,omitempty"`
	HashPhone    string            `json:"hash_phone,omitempty"`
	TemplateID   string            `json:"template_id"`
	TemplateData map[string]string `json:"template_data"`
	TrackingID   string            `json:"tracking_id"`
	SendingMode  string            `json:"sending_mode,omitempty"`
	Mode         string            `json:"mode,omitempty"`
}

func (req *SendRequest) payload() (sendJSON, error) {
	p := sendJSON{
		Phone: strings.TrimPrefix(req.Phone, "+"), HashPhone: req.PhoneSHA256, TemplateID: req.TemplateID,
		TemplateData: req.TemplateData, TrackingID: req.TrackingID, SendingMode: req.SendingMode,
	}
	if req.Development {
		p.Mode = "development"
	}
	if (req.Phone == "") == (req.PhoneSHA256 == "") {
		return p, errors.New("exactly one of Phone and PhoneSHA256 is required")
	}
	return p, nil
}

// append writes p as encoding/json does without its escapes for HTML: what the person reads goes over the wire as it is.
func (p *sendJSON) append(b []byte) []byte {
	b = append(b, '{')
	field := func(name, value string, always bool) {
		if value != "" || always {
			if b[len(b)-1] != '{' {
				b = append(b, ',')
			}
			b = appendJSON(append(append(append(b, '"'), name...), `":`...), value)
		}
	}
	field("phone", p.Phone, false)
	field("hash_phone", p.HashPhone, false)
	field("template_id", p.TemplateID, true)
	b = append(b, `,"template_data":{`...)
	var room [16]string
	names := room[:0]
	for name := range p.TemplateData {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendJSON(append(appendJSON(b, name), ':'), p.TemplateData[name])
	}
	b = append(b, '}')
	field("tracking_id", p.TrackingID, true)
	field("sending_mode", p.SendingMode, false)
	field("mode", p.Mode, false)
	return append(b, '}')
}

// appendJSON appends s as a JSON string. What needs an escape is left to encoding/json.
func appendJSON(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c < ' ' || c == '"' || c == '\\' || c == 0x7f {
				return appendEscaped(b, s)
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError || r == '\u2028' || r == '\u2029' {
			return appendEscaped(b, s)
		}
		i += size
	}
	return append(append(append(b, '"'), s...), '"')
}

func appendEscaped(b []byte, s string) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string is always encoded
	return append(b, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}

// rawRequest is the whole request as it goes over the wire, but for the body, which is behind it.
func (c *Client) rawRequest(token string, req *SendRequest) ([]byte, error) {
	payload, err := req.payload()
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, errors.New("the access token has a control character: a header cannot carry it")
	}
	var room [1024]byte
	body := payload.append(room[:0])
	head := c.phoneHead
	if req.PhoneSHA256 != "" {
		head = c.hashHead
	}
	raw := make([]byte, 0, len(head)+len(token)+len(body)+160)
	raw = append(raw, head...)
	raw = append(append(append(raw, "access_token: "...), token...), "\r\n"...) // Zalo's spelling
	if c.cfg.AppSecret != "" {
		raw = append(append(append(raw, "appsecret_proof: "...), AppSecretProof(c.cfg.AppSecret, token)...), "\r\n"...)
	}
	raw = strconv.AppendInt(append(raw, "Content-Length: "...), int64(len(body)), 10)
	return append(append(raw, "\r\n\r\n"...), body...), nil
}

// request is rawRequest for http.Transport.
func (c *Client) request(ctx context.Context, token string, req *SendRequest) (*http.Request, error) {
	payload, err := req.payload()
	if err != nil {
		return nil, err
	}
	raw := payload.append(make([]byte, 0, 512))
	target := c.phone
	if req.PhoneSHA256 != "" {
		target = c.hash
	}
	header := make(http.Header, 4)
	header["Content-Type"] = []string{"application/json"}
	header["User-Agent"] = []string{"znshub"}
	// Zalo's spelling; a gateway that compares case would not know Access_token.
	header["access_token"] = []string{token}
	if c.cfg.AppSecret != "" {
		header["appsecret_proof"] = []string{AppSecretProof(c.cfg.AppSecret, token)}
	}
	hreq := &http.Request{
		Method: http.MethodPost, URL: target, Host: target.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(raw)), ContentLength: int64(len(raw)),
		// Lets the transport take another connection when one died before a byte was written. There is no
		// Idempotency-Key header, which would let it repeat a request that may have arrived.
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
	}
	return hreq.WithContext(ctx), nil
}

// head is the part of a request to path that is always the same.
func head(host, path string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: znshub\r\nContent-Type: application/json\r\n", path, host)
}
