// Command check_export verifies an exported log with Go's own transparency log packages, and nothing of ours.
//
//	check_export <directory> <verifier key> <older checkpoint> <receipt> <entry>
//
// It checks the signed checkpoint with sumdb/note; recomputes every stored hash, and so the root, from the entries with sumdb/tlog;
// compares every tile file with those hashes; proves sample entries in the tree, and the older tree in the newer; and checks the
// receipt of the entry. It prints one line a check, and stops at the first that fails.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8

type checkpoint struct {
	origin string
	size   int64
	root   tlog.Hash
}

func main() {
	if len(os.Args) != 6 {
		fail("usage: check_export <directory> <verifier key> <older checkpoint> <receipt> <entry>")
	}
	directory := os.Args[1]
	verifier, err := note.NewVerifier(os.Args[2])
	try(err)
	newest := open(verifier, read(filepath.Join(directory, "checkpoint")))
	older := open(verifier, read(os.Args[3]))
	fmt.Printf("checkpoints of %s at %d and %d: signatures good\n", newest.origin, older.size, newest.size)

	hashes := hashEntries(directory, newest)
	compareTiles(directory, newest.size, hashes)
	prove(newest, older, hashes)
	checkReceipt(verifier, read(os.Args[4]), read(os.Args[5]))
}

// open verifies a checkpoint's signature and reads its three lines.
func open(verifier note.Verifier, text []byte) checkpoint {
	opened, err := note.Open(text, note.VerifierList(verifier))
	try(err)
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		fail("a checkpoint of %d lines", len(lines)-1)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	try(err)
	root, err := tlog.ParseHash(lines[2])
	try(err)
	return checkpoint{lines[0], size, root}
}

// hashEntries recomputes the tree from the entry bundles and compares its root with the one that was signed.
func hashEntries(directory string, newest checkpoint) tlog.HashReaderFunc {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, 0, len(indexes))
		for _, index := range indexes {
			found = append(found, stored[index])
		}
		return found, nil
	})
	var index int64
	for index < newest.size {
		width := newest.size - index
		if width > 1<<tileHeight {
			width = 1 << tileHeight
		}
		bundle := read(filepath.Join(directory, tilePath("entries", index>>tileHeight, width)))
		for ; width > 0; width-- {
			length := int(binary.BigEndian.Uint16(bundle))
			added, err := tlog.StoredHashes(index, bundle[2:2+length], reader)
			try(err)
			stored = append(stored, added...)
			bundle = bundle[2+length:]
			index++
		}
		if len(bundle) != 0 {
			fail("%d bytes too many before entry %d", len(bundle), index)
		}
	}
	root, err := tlog.TreeHash(newest.size, reader)
	try(err)
	if newest.size > 0 && root != newest.root {
		fail("the entries give the root %v, signed was %v", root, newest.root)
	}
	fmt.Printf("root of %d entries: recomputed and equal\n", newest.size)
	return reader
}

// compareTiles compares the file of every tile of the tree with what Go computes for it.
func compareTiles(directory string, size int64, hashes tlog.HashReader) {
	count := 0
	for _, tile := range tlog.NewTiles(tileHeight, 0, size) {
		width := size >> uint(tileHeight*tile.L) & (1<<tileHeight - 1)
		if tile.W < 1<<tileHeight && int64(tile.W) != width {
			continue // some versions of the package list every narrower tile of the same number too
		}
		wanted, err := tlog.ReadTileData(tile, hashes)
		try(err)
		path := tilePath(strconv.Itoa(tile.L), tile.N, int64(tile.W))
		// C2SP leaves out the element of Go's path that names the height.
		if theirs := strings.Replace(tile.Path(), "tile/8/", "tile/", 1); theirs != path {
			fail("tile path %s, Go says %s", path, theirs)
		}
		if !bytes.Equal(read(filepath.Join(directory, path)), wanted) {
			fail("%s differs", path)
		}
		count++
	}
	fmt.Printf("%d tiles: equal\n", count)
}

// prove makes proofs with Go from the hashes just compared, and checks them against the signed roots.
func prove(newest, older checkpoint, hashes tlog.HashReader) {
	step := newest.size/50 + 1
	for index := int64(0); index < newest.size; index += step {
		proof, err := tlog.ProveRecord(newest.size, index, hashes)
		try(err)
		leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
		try(err)
		try(tlog.CheckRecord(proof, newest.size, newest.root, index, leaf[0]))
	}
	if older.size > 0 {
		proof, err := tlog.ProveTree(newest.size, older.size, hashes)
		try(err)
		try(tlog.CheckTree(proof, newest.size, newest.root, older.size, older.root))
	}
	fmt.Printf("inclusion in %d, consistency from %d: proven\n", newest.size, older.size)
}

// checkReceipt reads a receipt and proves the entry with the hashes in it.
func checkReceipt(verifier note.Verifier, receipt, entry []byte) {
	parts := strings.SplitN(string(receipt), "\n\n", 2)
	signed := open(verifier, []byte(parts[1]))
	lines := strings.Split(parts[0], "\n")
	if lines[0] != "c2sp.org/tlog-proof@v1" {
		fail("a receipt that starts with %q", lines[0])
	}
	lines = lines[1:]
	if strings.HasPrefix(lines[0], "extra ") {
		lines = lines[1:]
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "index "), 10, 64)
	try(err)
	var proof tlog.RecordProof
	for _, line := range lines[1:] {
		hash, err := base64.StdEncoding.DecodeString(line)
		try(err)
		var node tlog.Hash
		if copy(node[:], hash) != tlog.HashSize {
			fail("a hash of %d bytes", len(hash))
		}
		proof = append(proof, node)
	}
	try(tlog.CheckRecord(proof, signed.size, signed.root, index, tlog.RecordHash(entry)))
	fmt.Printf("receipt of entry %d in %d: proven\n", index, signed.size)
}

// tilePath names a file of the export (c2sp.org/tlog-tiles).
func tilePath(kind string, number, width int64) string {
	path := fmt.Sprintf("%03d", number%1000)
	for number >= 1000 {
		number /= 1000
		path = fmt.Sprintf("x%03d/%s", number%1000, path)
	}
	path = "tile/" + kind + "/" + path
	if width < 1<<tileHeight {
		path += fmt.Sprintf(".p/%d", width)
	}
	return path
}

func read(path string) []byte {
	content, err := os.ReadFile(path)
	try(err)
	return content
}

func try(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, values ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(1)
}
