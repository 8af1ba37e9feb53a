package audit

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/internal/platform"
)

// Config says where a log is. Zero numbers take the defaults in brackets.
type Config struct {
	Dir   string
	Size  int64            // [64 MiB] bytes of a file, after which the next one begins
	Files int              // [0: all] full files that are kept; the oldest are removed
	Now   func() time.Time // nil: time.Now
}

// Defaults returns the default of each number. A test of node compares them with the configuration's.
func Defaults() Config { return Config{Size: 64 << 20} }

// The files of a log: the current one, full ones with the number of their first record, and the lock.
const (
	currentFile = "audit.jsonl"
	fullPrefix  = "audit-"
	fullSuffix  = ".jsonl"
	lockFile    = ".lock"
)

// Log appends records. It is safe for concurrent use, also by several processes.
type Log struct {
	cfg Config

	mu   sync.Mutex  // one append at a time
	last Mark        // of the last record that this Log has written or read
	size int64       // of the current file after it; -1 if that is not known
	file fs.FileInfo // of the current file after it; nil if that is not known
}

// Open prepares a log in a folder, which is made with the first record, and reads its head. It repairs nothing.
func Open(cfg Config) (*Log, error) {
	if cfg.Dir == "" {
		return nil, errors.New("audit: no folder is given")
	}
	if cfg.Size <= 0 {
		cfg.Size = Defaults().Size
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Log{cfg: cfg, size: -1}, nil
}

// Append writes a record and returns its mark when it is on the disk. rotated reports that it begins a new file.
func (l *Log) Append(what Act, who, on string, with map[string]string) (m Mark, rotated bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	unlock, err := l.lock()
	if err != nil {
		return m, false, fmt.Errorf("audit: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	f, size, cutOff, err := l.open()
	if err != nil {
		return m, false, fmt.Errorf("audit: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if cutOff > 0 {
		if size, err = l.write(f, size, &Record{What: LogRepaired, Who: "node:", On: currentFile, With: map[string]string{"bytes": strconv.Itoa(cutOff)}}); err != nil {
			return m, false, err
		}
	}
	if size >= l.cfg.Size {
		if f, err = l.rotate(f); err != nil {
			return m, false, fmt.Errorf("audit: %w", err)
		}
		size, rotated = 0, true
	}
	_, err = l.write(f, size, &Record{What: what, Who: who, On: on, With: with})
	return l.last, rotated, err
}

// write appends a record to the current file, which has a size, and returns the new one. A partial write is cut off
// again, here or by the next append.
func (l *Log) write(f *os.File, size int64, r *Record) (int64, error) {
	r.Number, r.Time = l.last.Number+1, l.cfg.Now().UTC()
	if l.last.Number > 0 {
		r.Previous = hex.EncodeToString(l.last.Hash[:])
	}
	line, err := r.encode()
	if err != nil {
		return size, err
	}
	l.size = -1
	if _, err := f.Write(append(line, '\n')); err != nil {
		return size, errors.Join(fmt.Errorf("audit: %w", err), f.Truncate(size))
	}
	if err := f.Sync(); err != nil {
		return size, fmt.Errorf("audit: %w", err)
	}
	l.last, l.size = markOf(r.Number, line), size+int64(len(line))+1
	l.file, err = f.Stat()
	if err != nil {
		l.file = nil // the next append reads the last line
	}
	return l.size, nil
}

// Copy makes a copy of the whole log in a folder that is not there yet, for a backup. Nothing is appended meanwhile.
// Full files are linked where the disk allows it.
func (l *Log) Copy(to string) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	unlock, err := l.lock()
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	list, err := fullFiles(l.cfg.Dir)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	for _, path := range list {
		if os.Link(path, filepath.Join(to, filepath.Base(path))) != nil {
			err = errors.Join(err, copyFile(path, filepath.Join(to, filepath.Base(path))))
		}
	}
	if cerr := copyFile(filepath.Join(l.cfg.Dir, currentFile), filepath.Join(to, currentFile)); !errors.Is(cerr, fs.ErrNotExist) {
		err = errors.Join(err, cerr)
	}
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// lock keeps other processes from appending.
func (l *Log) lock() (unlock func() error, err error) {
	if err := makeFolder(l.cfg.Dir); err != nil {
		return nil, err
	}
	f, err := openOwned(filepath.Join(l.cfg.Dir, lockFile), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := platform.Lock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f.Close, nil // which ends the lock
}

// open opens the current file for appending, and finds the last record where others may have appended. cutOff is the
// number of bytes of a line that a crash has cut off, which are removed.
func (l *Log) open() (f *os.File, size int64, cutOff int, err error) {
	path := filepath.Join(l.cfg.Dir, currentFile)
	_, statErr := os.Stat(path)
	if f, err = openOwned(path, os.O_RDWR|os.O_CREATE|os.O_APPEND); err != nil {
		return nil, 0, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if errors.Is(statErr, fs.ErrNotExist) {
		if err := syncFolder(l.cfg.Dir); err != nil {
			return f, 0, 0, err
		}
	}
	info, err := f.Stat()
	if err != nil {
		return f, 0, 0, err
	}
	size = info.Size()
	if size == l.size && l.file != nil && os.SameFile(info, l.file) && info.ModTime().Equal(l.file.ModTime()) {
		return f, size, 0, nil // nobody else has appended: another file can have the same size
	}
	line, end, err := lastLine(f, size)
	if err != nil {
		return f, 0, 0, err
	}
	if end < size {
		cutOff = int(size - end)
		if err := f.Truncate(end); err != nil {
			return f, 0, 0, err
		}
		size = end
	}
	if line == nil {
		if line, err = l.lastOfFull(); err != nil {
			return f, 0, 0, err
		}
	}
	l.last, l.size, l.file = Mark{}, size, nil
	if line != nil {
		r, err := decode(line)
		if err != nil {
			return f, 0, 0, fmt.Errorf("the last line of %s: %w: move the folder away, so that a new log begins", l.cfg.Dir, err)
		}
		l.last = markOf(r.Number, line)
	}
	return f, size, cutOff, nil
}

// lastOfFull is the last line of the newest full file, nil if there is none.
func (l *Log) lastOfFull() ([]byte, error) {
	list, err := fullFiles(l.cfg.Dir)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	f, err := os.Open(list[len(list)-1])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	line, end, err := lastLine(f, info.Size())
	if err == nil && (line == nil || end != info.Size()) {
		err = fmt.Errorf("%s does not end with a record", f.Name())
	}
	return line, err
}

// rotate renames the full current file, removes the oldest ones over Files, and begins a new one. It closes f.
func (l *Log) rotate(f *os.File) (*os.File, error) {
	head := make([]byte, maxLine+1)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return f, err
	}
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	first, err := decode(line)
	if err != nil {
		return f, fmt.Errorf("the first line of %s: %w", f.Name(), err)
	}
	path := filepath.Join(l.cfg.Dir, fmt.Sprintf("%s%020d%s", fullPrefix, first.Number, fullSuffix))
	if err := os.Rename(f.Name(), path); err != nil {
		return f, err
	}
	next, err := openOwned(filepath.Join(l.cfg.Dir, currentFile), os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND)
	if err != nil {
		return f, err
	}
	err = errors.Join(f.Close(), l.removeOldest(), syncFolder(l.cfg.Dir))
	return next, err
}

func (l *Log) removeOldest() error {
	if l.cfg.Files <= 0 {
		return nil
	}
	list, err := fullFiles(l.cfg.Dir)
	for err == nil && len(list) > l.cfg.Files {
		err = os.Remove(list[0])
		list = list[1:]
	}
	return err
}

// fullFiles lists the paths of the full files, the oldest first.
func fullFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		name, isFull := strings.CutPrefix(e.Name(), fullPrefix)
		if number, ok := strings.CutSuffix(name, fullSuffix); ok && isFull && len(number) == 20 && e.Type().IsRegular() {
			list = append(list, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(list)
	return list, nil
}

// lastLine returns the last whole line of a file without its newline, nil if there is none, and where it ends.
func lastLine(f io.ReaderAt, size int64) (line []byte, end int64, err error) {
	begin := max(0, size-2*(maxLine+1))
	tail := make([]byte, size-begin)
	if _, err := f.ReadAt(tail, begin); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	at := bytes.LastIndexByte(tail, '\n')
	if at < 0 {
		if begin > 0 {
			return nil, 0, errors.New("the file does not end with a record")
		}
		return nil, 0, nil
	}
	from := bytes.LastIndexByte(tail[:at], '\n') + 1
	if from == 0 && begin > 0 {
		return nil, 0, errors.New("the file does not end with a record")
	}
	return tail[from:at], begin + int64(at) + 1, nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
