package rendezvous

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata")

func testToken(t testing.TB) *Token {
	t.Helper()
	server := Address{Host: "192.0.2.1", Port: 3478, Peer: testPeer(0x11)}
	token, err := NewToken(bytes.NewReader([]byte("sixteen secrets!")), server, testPeer(0x22), time.Unix(1_800_000_000, 5))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTokenMatchesGoldenText(t *testing.T) {
	file := filepath.Join("testdata", "token.txt")
	token := testToken(t)
	text := fmt.Sprintf("token %s\nadmit %x\npeer %x\nproof %x\n", token.Encode(),
		[32]byte(token.AdmitKey()), [32]byte(token.PeerKey()), Proof(token.PeerKey(), []byte("exporter")))
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("got\n%swant\n%s", text, want)
	}
	got, err := ParseToken(token.Encode())
	if err != nil || *got != *token {
		t.Errorf("ParseToken = %+v, %v; want %+v", got, err, token)
	}
}

func TestTokenSurvivesTerminalsAndMail(t *testing.T) {
	token := testToken(t)
	text := token.Encode()
	for _, s := range []string{
		" " + text + "\n",
		strings.ToUpper(text),
		text[:40] + "\r\n  " + text[40:80] + " " + text[80:],
	} {
		if got, err := ParseToken(s); err != nil || *got != *token {
			t.Errorf("ParseToken(%q) = %v, %v", s, got, err)
		}
	}
	if strings.ContainsAny(text, " -_/+=") {
		t.Errorf("token %q is not one word", text)
	}
}

func TestBadTokensAreNamed(t *testing.T) {
	token := testToken(t)
	text := token.Encode()
	swapped := []byte(text)
	swapped[50] = 'a' + (swapped[50]-'a'+1)%26
	newer := func() string {
		b, err := tokenEncoding.DecodeString(text[len(tokenPrefix):])
		if err != nil {
			t.Fatal(err)
		}
		b[0] = 2
		return tokenPrefix + tokenEncoding.EncodeToString(b)
	}()
	for _, tt := range []struct {
		name, text string
		problem    TokenProblem
		want       string
	}{
		{"empty", " ", TokenMalformed, "empty"},
		{"something else", "hello", TokenMalformed, `starts with "igt"`},
		{"typing error", string(swapped), TokenDamaged, "checksum"},
		{"impossible character", text[:9] + "1" + text[10:], TokenMalformed, "character 10"},
		{"last half missing", text[:len(text)/2], TokenDamaged, "cut short"},
		{"last eight characters missing", text[:len(text)-8], TokenDamaged, "cut short"},
		{"newer format", newer, TokenVersion, "format is 2"},
		{"very long", "igt" + strings.Repeat("a", 5000), TokenMalformed, "more than any"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseToken(tt.text)
			var e *TokenError
			if !errors.As(err, &e) || e.Problem != tt.problem || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want problem %d with %q", err, tt.problem, tt.want)
			}
			if len(tt.text) > 20 && strings.Contains(err.Error(), tt.text[:20]) {
				t.Errorf("error %q repeats the secret", err)
			}
		})
	}
}

func TestEveryTypingErrorIsFound(t *testing.T) {
	text := testToken(t).Encode()
	for i := range text {
		for _, c := range []byte("a7") {
			if text[i] == c {
				continue
			}
			if got, err := ParseToken(text[:i] + string(c) + text[i+1:]); err == nil {
				t.Errorf("character %d replaced by %c gives %v", i, c, got)
			}
		}
		if got, err := ParseToken(text[:i]); err == nil {
			t.Errorf("first %d characters give %v", i, got)
		}
	}
}

func TestTokenExpires(t *testing.T) {
	token := testToken(t)
	if err := token.Check(token.Expiry.Add(-1)); err != nil {
		t.Errorf("a nanosecond before: %v", err)
	}
	var e *TokenError
	if err := token.Check(token.Expiry); !errors.As(err, &e) || e.Problem != TokenExpired {
		t.Errorf("at the expiry: %v, want TokenExpired", err)
	}
}

func TestTokenKeepsItsSecretOutOfLogs(t *testing.T) {
	token := testToken(t)
	for _, s := range []string{
		fmt.Sprint(token), fmt.Sprintf("%+v", token), fmt.Sprintf("%#v", token),
		fmt.Sprint(token.PeerKey()), fmt.Sprintf("%#v", token.PeerKey()),
	} {
		if strings.Contains(s, "sixteen") || strings.Contains(s, hex.EncodeToString(token.Secret[:])) || strings.Contains(s, token.Encode()) {
			t.Errorf("%q holds the secret", s)
		}
	}
}

func TestProofHoldsForOneKeyAndOneSession(t *testing.T) {
	token := testToken(t)
	key, exporter := token.PeerKey(), []byte("exporter of session one")
	proof := Proof(key, exporter)
	if !VerifyProof(key, exporter, proof[:]) {
		t.Error("the right proof is refused")
	}
	if VerifyProof(key, []byte("exporter of session two"), proof[:]) {
		t.Error("a proof holds for another session")
	}
	if VerifyProof(token.AdmitKey(), exporter, proof[:]) {
		t.Error("the key that the rendezvous sees makes a proof")
	}
	if VerifyProof(key, exporter, proof[:31]) || VerifyProof(key, exporter, nil) {
		t.Error("a short proof is accepted")
	}
	other := *token
	other.Sender = testPeer(0x33)
	if other.PeerKey() == key {
		t.Error("the same secret gives the same key for another sender")
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(testToken(f).Encode())
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			return
		}
		if want := strings.ToLower(strings.Join(strings.Fields(s), "")); token.Encode() != want {
			t.Errorf("%q decodes to %+v, which encodes to %q", s, token, token.Encode())
		}
	})
}
