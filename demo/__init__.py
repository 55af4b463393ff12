"""The tour that `make demo` gives: joint statistics over three departments with real data, each beside the pooled truth.

    questions  what is asked, as the analyst writes it, and the same in pandas on the pooled rows
    compare    released beside pooled: difference, interval, and whether they agree
    story      the chapters, each a few blocks (`blocks`)
    evidence   the chapter on receipts and the owner's books, with its files
    wire       what the departments really sent
    console    blocks as text; `page` and `figures`  blocks as one self-contained HTML file

The demo plays every part at once, hence it can pool the rows and check what no analyst can. The library's own calls are those of
an analyst; only `wire` looks behind them.
"""
