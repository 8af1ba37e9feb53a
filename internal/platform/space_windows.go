package platform

import "golang.org/x/sys/windows"

// Space returns the bytes of a folder's disk: free for this process's user, and in total.
func Space(folder string) (free, size uint64, err error) {
	name, err := windows.UTF16PtrFromString(folder)
	if err != nil {
		return 0, 0, err
	}
	err = windows.GetDiskFreeSpaceEx(name, &free, &size, nil)
	return free, size, err
}
