package ri2n

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// docs/wire-format.md names every frame, code, parameter and vector as the code
// has them.
func TestWireFormatDocument(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "docs", "wire-format.md"))
	if err != nil {
		t.Fatal(err)
	}
	document := string(raw)
	want := func(text string) {
		t.Helper()
		if !strings.Contains(document, text) {
			t.Errorf("docs/wire-format.md does not say %q", text)
		}
	}
	for typ := range uint64(0x40) {
		name := frameName(typ)
		if strings.HasPrefix(name, "frame ") {
			if strings.Contains(document, fmt.Sprintf("\n| 0x%02x |", typ)) {
				t.Errorf("docs/wire-format.md has a frame of type %#x", typ)
			}
			continue
		}
		if isStreamFrame(typ) {
			continue
		}
		if !isAckElicitingFrame(typ) {
			name += " *"
		}
		want(fmt.Sprintf("| 0x%02x | %s |", typ, name))
	}
	want("| 0x08 to 0x0f | STREAM |")
	for _, row := range strings.Split(document, "\n") {
		cells := strings.Split(row, " | ")
		var typ uint64
		if _, err := fmt.Sscanf(cells[0], "| 0x%02x", &typ); err != nil || len(cells) != 4 {
			continue
		}
		if got := strings.Contains(cells[2], "H"); got != isHandshakeFrame(typ) {
			t.Errorf("docs/wire-format.md allows frame %#x in the handshake: %v", typ, got)
		}
	}
	for code, name := range map[errorCode]string{
		codeNoError: "NO_ERROR", codeInternal: "INTERNAL", codeFlowControl: "FLOW_CONTROL", codeStreamLimit: "STREAM_LIMIT",
		codeStreamState: "STREAM_STATE", codeFinalSize: "FINAL_SIZE", codeFrameEncoding: "FRAME_ENCODING",
		codeTransportParameter: "TRANSPORT_PARAMETER", codeProtocolViolation: "PROTOCOL_VIOLATION", codeAckUnsent: "ACK_UNSENT",
		codePathLimit: "PATH_LIMIT", codeKeyUpdate: "KEY_UPDATE", codeAEADLimit: "AEAD_LIMIT", codeCryptoBuffer: "CRYPTO_BUFFER",
		codeRefused: "REFUSED",
	} {
		want(fmt.Sprintf("| %d | %s |", code, name))
	}
	for id, name := range map[int]string{
		paramVersion: "version", paramOriginalDCID: "original_destination_connection_id",
		paramInitialSCID: "initial_source_connection_id", paramRetrySCID: "retry_source_connection_id",
		paramMaxData: "max_data", paramMaxStreamData: "max_stream_data", paramMaxStreamsBidi: "max_streams_bidi",
		paramMaxStreamsUni: "max_streams_uni", paramMaxIdle: "max_idle", paramMaxAckDelay: "max_ack_delay",
		paramMaxDatagram: "max_datagram", paramMaxPaths: "max_paths",
	} {
		want(fmt.Sprintf("| 0x%02x | %s |", id, name))
	}
	files, err := filepath.Glob(goldenPath("*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		want("`" + filepath.Base(file) + "`")
	}
}
